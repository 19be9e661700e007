/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet makes of its connection's state (rule 6). */
#ifndef PYPROXY_STATE_H
#define PYPROXY_STATE_H

#include "connection.h"

/* Return the flags of a connection after a packet of its client. */
static __always_inline __u32 life_after_request(__u32 flags, const struct packet *packet)
{
	if (packet->proto == IPPROTO_UDP)
		return flags;
	/* it may be forged: it shortens the timeout, and what follows takes it back */
	if (packet->flags & TCP_RST)
		return flags | LIFE_RESET;
	flags &= ~LIFE_RESET;
	if (flags & LIFE_REPLIED && packet->flags & TCP_ACK)
		flags |= LIFE_ESTABLISHED;
	if (packet->flags & TCP_FIN)
		flags |= LIFE_FIN_CLIENT;
	return flags;
}

/* Return the flags of a connection after a packet of its backend. */
static __always_inline __u32 life_after_reply(__u32 flags, const struct packet *packet)
{
	if (packet->proto == IPPROTO_UDP)
		return flags | LIFE_REPLIED;
	if (packet->flags & TCP_RST)
		return flags | LIFE_RESET;
	flags &= ~LIFE_RESET;
	/* it accepts a connection: whoever had this port before has left for good */
	if ((packet->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		/* but an answer to data of the SYN may overtake this, up to its end (RFC 7413) */
		flags &= ~(flags & LIFE_REPLIED ? LIFE_FIN : LIFE_FIN_CLIENT);
		flags |= LIFE_REPLIED;
	}
	if (packet->flags & TCP_FIN)
		flags |= LIFE_FIN_BACKEND;
	return flags;
}

/*
 * Return whether a backend's packet is no answer to this connection's SYN but belongs to a
 * direct one between the same ends, which nobody tracks (rule 4). Data that answers data of the SYN
 * may overtake the SYN that acknowledges both (RFC 7413): what it acknowledges tells it.
 */
static __always_inline bool is_clash(struct __sk_buff *skb, const struct found *found,
				     const struct packet *packet)
{
	if (packet->proto != IPPROTO_TCP || (__u32)found->copy.life & LIFE_REPLIED ||
	    packet->flags & (TCP_SYN | TCP_RST))
		return false;
	/* no packet has more bytes than the lower half counts */
	return !(packet->flags & TCP_ACK) ||
	       (__u16)(upper_half(skb, packet, TCP_ACK_SEQ) - found->copy.syn_seq) > 1;
}

/* Note the number of a SYN that was not answered yet: another one may have begun with this port. */
static __always_inline void syn_note(struct __sk_buff *skb, struct found *found,
				     const struct packet *packet)
{
	struct connection *record;

	if (!is_first(packet) || (__u32)found->copy.life & LIFE_REPLIED)
		return;
	record = connections.lookup(&found->number);
	if (record && record->check == found->copy.check)
		record->syn_seq = upper_half(skb, packet, TCP_SEQ);
}

/*
 * Return whether a connection ends where the same ends are used for something else that begins: it
 * is closed, or one of UDP that was idle.
 */
static __always_inline bool gives_way(__u64 life, __u32 now)
{
	return life & LIFE_UDP ? life_age(life, now) > setting(SETTING_UDP) : is_closed(life);
}

/* Give a connection other flags; others may change it at the same time. */
static __always_inline void life_set(struct found *found, __u32 set, __u32 cleared, __u32 now)
{
	struct connection *record = connections.lookup(&found->number);

	if (!record)
		return;
#pragma nounroll
	for (int i = 0; i < FIND_TRIES; i++) {
		__u32 flags = ((__u32)found->copy.life & ~cleared) | set;

		if (life_change(found, flags, now))
			return;
		found->copy.life = *(volatile __u64 *)&record->life;
	}
}

/* Note what a packet has made of its connection. Costs nothing while nothing changes. */
static __always_inline void life_note(struct found *found, __u32 flags, __u32 now)
{
	__u32 old = (__u32)found->copy.life;

	if (flags != old)
		life_set(found, flags & ~old, old & ~flags, now);
}

/*
 * Return whether a packet of the client may go on to the connection's backend. One that may
 * begin a connection begins another when this one is over, or its backend is gone (rule 6); a
 * datagram, when its backend is gone (rule 18). So does either when its frontend may lead to
 * another service by now: that is for reopen.c to see.
 */
static __always_inline bool is_usable(struct found *found, const struct packet *packet, __u32 now)
{
	struct connection *copy = &found->copy;
	__u32 generation = copy->generation;
	struct connection *record;

	if (is_expired(copy->life, now))
		return false;
	if (!may_open(packet))
		return true;
	if (packet->proto != IPPROTO_UDP && (is_closed(copy->life) || copy->life & LIFE_CLASH))
		return false;
	if (!copy->service)
		return true;
	if (copy->frontend_epoch != epoch(SETTING_FRONTEND_EPOCH))
		return false;
	if (!backend_is_member(copy->service, &copy->backend, &generation))
		return false;
	record = connections.lookup(&found->number);
	if (record && generation != copy->generation && record->check == copy->check)
		record->generation = generation;
	return true;
}

#endif /* PYPROXY_STATE_H */
