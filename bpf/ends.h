/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a connection makes of packets that are not read as most are: fragments, and what is quoted. */
#ifndef PYPROXY_ENDS_H
#define PYPROXY_ENDS_H

#include "connection.h"
#include "translate.h"

/* Both ends of a packet as they are after a hook. */
struct ends {
	struct endpoint src;
	struct endpoint dst;
};

/* Return how a packet of a connection looks after the hook at one side. */
static __always_inline struct ends ends_of(const struct found *found, const struct packet *packet,
					   __u32 side)
{
	const struct connection *copy = &found->copy;
	struct ends ends = { .src = packet->src, .dst = packet->dst };

	if (side == SIDE_INGRESS && found->role == ROLE_REQUEST) {
		ends.src = inner_client(copy);
		ends.dst = copy->backend;
	} else if (side == SIDE_INGRESS) {
		ends.dst = inner_client(copy);
	} else if (found->role == ROLE_REPLY) {
		ends.src = copy->frontend;
		ends.dst = copy->client;
	} else {
		ends.src = copy->source;
	}
	return ends;
}

/* Return whether a connection is there, and says how its packets look after the hook. */
static __always_inline bool is_translatable(const struct found *found, __u32 side)
{
	const struct connection *copy = &found->copy;

	if (found->role == ROLE_PASS || is_expired(copy->life, now_ticks()))
		return false;
	if (side == SIDE_EGRESS && found->role == ROLE_REQUEST)
		return copy->life & LIFE_SOURCE_READY &&
		       copy->source_check == connection_source_check(copy);
	return true;
}

/* Write other addresses into a packet's IP header, whose sum changes by `diff`. */
static __always_inline long addresses_write(struct __sk_buff *skb, const struct packet *packet,
					    const struct addr *src, const struct addr *dst,
					    __u32 diff)
{
	struct ip_ends ends = { .src = *src, .dst = *dst };

	ip_ends_check(&ends, packet->check, diff);
	return bpf_skb_store_bytes(skb, packet->ip + IP_ENDS, &ends,
				   sizeof(ends) - sizeof(ends.ports), 0);
}

/* Note that a packet was translated at one side. */
static __always_inline void translated_note(struct __sk_buff *skb, __u32 side)
{
	skb->tc_index = side == SIDE_EGRESS ? TRANSLATED_OUT : TRANSLATED;
}

/*
 * Return what becomes of a packet that was translated: it goes on, or out by the uplink by which
 * its client came (rule 15).
 */
static __always_inline int translated_go(struct __sk_buff *skb, const struct packet *packet,
					 const struct found *found, __u32 side)
{
	__u32 uplink = found->copy.uplink;

	if (side == SIDE_EGRESS && found->role == ROLE_REPLY && uplink && uplink != skb->ifindex)
		stage_back(skb, packet->ip, uplink);
	return TC_NEXT;
}

#endif /* PYPROXY_ENDS_H */
