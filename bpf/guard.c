/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tc ingress and egress of every device: new connections that a traffic policy drops
 * (parity A8.2) end here, since a socket hook can refuse but not drop. Everything else
 * passes to the next program, never past it (rule 1).
 */
#include "balance.h"
#include "family.h"

#define TC_NEXT -1 /* TC_ACT_UNSPEC and TCX_NEXT */
#define TC_DROP 2 /* TC_ACT_SHOT and TCX_DROP */

#define ETH_HLEN 14
#define TCP_FLAGS 13 /* offset in the TCP header */
#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* Return a setting of the agent's. */
static __always_inline __u64 setting(__u32 index)
{
	__u64 *value = settings.lookup(&index);

	return value ? *value : 0;
}

/* Return whether the packet may be the first of a connection: a TCP SYN, or any UDP. */
static __always_inline bool may_be_first(struct __sk_buff *skb, __u8 proto, __u32 transport)
{
	__u8 flags;

	if (proto == IPPROTO_UDP)
		return true;
	if (proto != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, transport + TCP_FLAGS, &flags, sizeof(flags)) < 0)
		return false;
	return (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Return what happens to a packet whose IP header is at offset. */
static __always_inline int guard_packet(struct __sk_buff *skb, __u32 offset)
{
	struct endpoint dst = {};
	struct backend_set set;
	__u32 transport, service;
	__be16 port;
	__u8 proto;

	if (!setting(SETTING_DROPPING) || skb->protocol != ETH_P_FAMILY)
		return TC_NEXT;
	if (!ip_load(skb, offset, &proto, &dst.addr, &transport) ||
	    !may_be_first(skb, proto, transport) ||
	    bpf_skb_load_bytes(skb, transport + 2, &port, sizeof(port)) < 0)
		return TC_NEXT;
	dst.port = host16(port);
	service = frontend_lookup(&dst, proto);
	if (!service || !set_read(service, &set) || set.count ||
	    verdict_of_empty(&set) != VERDICT_DROP)
		return TC_NEXT;
	count(COUNTER_GUARD_DROP);
	return TC_DROP;
}

int guard(struct __sk_buff *skb)
{
	return guard_packet(skb, ETH_HLEN);
}

/* For devices without a link-layer header. */
int guard_l3(struct __sk_buff *skb)
{
	return guard_packet(skb, 0);
}
