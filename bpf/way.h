/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fast path: where the stack sends a connection's packets. That is known from one that the
 * stack has sent, so that routes, policies and firewalls have had their say; it counts for a
 * second, until refresh.c has the stack asked again, or until a route changes.
 */
#ifndef PYPROXY_WAY_H
#define PYPROXY_WAY_H

#include "state.h"

#define LIFE_WAYS (LIFE_WAY_REQUEST | LIFE_WAY_REPLY)

/*
 * Return whether a packet may skip the stack, as far as it says itself. What begins or ends a TCP
 * connection is conntrack's to see, too.
 */
static __always_inline bool may_be_fast(const struct packet *packet)
{
	__u64 on = setting(SETTING_FAST_PATH);

	if (packet->proto == IPPROTO_UDP)
		return on & FAST_PATH_UDP;
	return packet->proto == IPPROTO_TCP && on & FAST_PATH_TCP &&
	       !(packet->flags & (TCP_SYN | TCP_FIN | TCP_RST));
}

/* Return whether a packet of a connection in this state may. */
static __always_inline bool is_fast(__u64 life, const struct packet *packet)
{
	return may_be_fast(packet) &&
	       (packet->proto == IPPROTO_UDP ||
		((life & (LIFE_ESTABLISHED | LIFE_CLASH)) == LIFE_ESTABLISHED &&
		 !is_over((__u32)life)));
}

/*
 * Return whether where a packet goes may be where others go. Not what a socket of the node sends,
 * nor what somebody has marked: a mark may choose the route.
 */
static __always_inline bool is_sent_plainly(const struct __sk_buff *skb)
{
	return skb->ingress_ifindex && !skb->vlan_present &&
	       !(skb->mark & ~(__u32)setting(SETTING_FORWARD_MARK));
}

/*
 * Which share of a connection's packets have its ways asked for before one has: most connections end
 * after less, and to ask costs more than a packet gains.
 */
#define ASKING_SHARE 8

/* Return whether to ask for the ways of a connection. */
static __always_inline bool is_worth_asking(__u64 life)
{
	return life & LIFE_LASTS || !(bpf_get_prandom_u32() % ASKING_SHARE);
}

/* Have it noted where a packet goes that is translated by now, if that is to be known: way.c. */
static __always_inline void way_ask(struct __sk_buff *skb, const struct packet *packet, __u64 life,
				    __u32 way)
{
	if (is_fast(life, packet) && is_worth_asking(life))
		stage_way(skb, packet->ip, way, false);
}

/* Return whether two ways lead to the same next hop. */
static __always_inline bool way_equal(const struct way *a, const struct way *b)
{
	const __u32 *one = (const __u32 *)a, *other = (const __u32 *)b;

	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] &&
	       one[3] == other[3] && one[4] == other[4];
}

/* Return what a whole way has in `check`. */
static __always_inline __u32 way_check(const struct way *way)
{
	const __u32 *word = (const __u32 *)way;

	return word[0] ^ word[1] ^ word[2] ^ word[3] ^ word[4] ^ 0xfa57fa57;
}

_Static_assert(__builtin_offsetof(struct way, check) == 20, "way_check: all words before");

#endif /* PYPROXY_WAY_H */
