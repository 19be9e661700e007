/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: the stack has sent a packet of a connection, whose ends are those that it leaves with.
 * Where it goes is written down for those that follow (way.h), once a second. What others have
 * masqueraded is no connection's any more.
 */
#include "route.h"
#include "way.h"

/* How many places are looked at for a next hop; for how long it keeps its own (60 s, in ticks). */
#define WAY_TRIES 4
#define WAY_TICKS 3577

/* Find the connection of a packet that leaves by the one that its answers find. */
static __always_inline bool connection_sent(const struct packet *packet, __u32 way,
					    struct found *found)
{
	struct packet answer = packet_answer(packet);
	__u32 side = way ? SIDE_INGRESS : SIDE_EGRESS;

	if (connection_find(&answer, side, found) != FOUND)
		return false;
	if (way)
		return found->role == (way == LIFE_WAY_REPLY ? ROLE_REQUEST : ROLE_REPLY);
	return found->role == ROLE_REPLY && !(found->copy.life & LIFE_SOURCE_WANTED);
}

/* Say where the stack sends a packet of these ends, if that is where this one goes. */
static __always_inline bool way_find(struct __sk_buff *skb, const struct packet *packet,
				     const struct connection *copy, __u32 way, struct way *to)
{
	struct endpoint client = inner_client(copy);
	struct bpf_fib_lookup route = {};

	if (way == LIFE_WAY_REPLY)
		route_from(skb, packet, &copy->backend, &client, &route);
	else
		route_from(skb, packet, &client, &copy->backend, &route);
	if (bpf_fib_lookup(skb, &route, sizeof(route), 0) || route.ifindex != skb->ifindex)
		return false;
	to->ifindex = route.ifindex;
	to->mtu = route.mtu_result;
	to->flags = device_flags(route.ifindex) & DEVICE_PEER;
	__builtin_memcpy(to->dst, route.dmac, ETH_ALEN);
	__builtin_memcpy(to->src, route.smac, ETH_ALEN);
	to->check = way_check(to);
	return true;
}

/*
 * Write a next hop at a place of the ways, if nobody can go by what stands there. Return false if
 * somebody may, or another CPU is about to.
 */
static __always_inline bool way_write(struct way *at, const struct way *to, __u32 now)
{
	__u64 seen = *(volatile __u64 *)&at->seen;

	if (at->ifindex && now - (__u32)seen < WAY_TICKS)
		return false;
	if (__sync_val_compare_and_swap(&at->seen, seen, (__u64)now) != seen)
		return false;
	__builtin_memcpy(at, to, __builtin_offsetof(struct way, seen));
	return true;
}

/* Return where a next hop stands among the ways, or is written; 0 if there is no place. */
static __always_inline __u32 way_place(const struct way *to, __u32 now)
{
	__u32 first = hash16(to->check);

#pragma nounroll
	for (__u32 i = 0; i < WAY_TRIES; i++) {
		__u32 index = (first + i) % WAYS ?: 1;
		struct way *at = ways.lookup(&index);

		if (!at)
			break;
		if (way_equal(at, to))
			at->seen = now;
		else if (!way_write(at, to, now))
			continue;
		return index;
	}
	return 0;
}

/*
 * Write down where a connection's packets go. When it was last seen stays as it was: the other way
 * counts no longer for this one.
 */
static __always_inline void way_note(struct found *found, __u32 way, __u32 index, __u16 since)
{
	struct connection *record = connections.lookup(&found->number);
	__u32 seen = found->copy.life >> 32;

	/* it may have become another one's: then its life has changed */
	if (!record || record->check != found->copy.check)
		return;
	if (record->way_epoch != since) {
		/* the other one is to be asked for, too */
		life_set(found, 0, LIFE_WAYS, seen);
		record->way_epoch = since;
	}
	if (way == LIFE_WAY_REPLY)
		record->reply_way = index;
	else
		record->request_way = index;
	life_set(found, way | LIFE_LASTS, 0, seen);
}

static __always_inline void way_learn(struct __sk_buff *skb, const struct packet *packet, __u32 way)
{
	/* before the route: one that changes meanwhile is asked for again */
	__u16 since = epoch(SETTING_WAY_EPOCH);
	__u32 now = now_ticks(), index;
	bool is_seen = !way;
	struct way to = {};
	struct found found;

	if (!is_sent_plainly(skb) || !(device_flags(skb->ingress_ifindex) & DEVICE_FAST) ||
	    !connection_sent(packet, way, &found) || is_expired(found.copy.life, now) ||
	    !is_fast(found.copy.life, packet))
		return;
	way = is_seen ? LIFE_WAY_REQUEST : way;
	if (found.copy.life & way && found.copy.way_epoch == since)
		return;
	/* of the others that was asked before */
	if (is_seen && !is_worth_asking(found.copy.life))
		return;
	if (!way_find(skb, packet, &found.copy, way, &to))
		return;
	index = way_place(&to, now);
	if (index)
		way_note(&found, way, index, since);
}

int way(struct __sk_buff *skb)
{
	bool is_worth = skb->cb[3];
	__u32 way = skb->cb[2];
	struct packet packet;

	if (packet_read(skb, stage_ip(skb), &packet) == READ_DONE) {
		if (stage_ip(skb))
			way_learn(skb, &packet, way);
		if (is_worth)
			stage_enter(skb, STAGE_EGRESS, &packet, SIDE_EGRESS);
	} else if (is_worth) {
		stage_headers(skb, stage_ip(skb), SIDE_EGRESS);
	}
	return TC_NEXT;
}
