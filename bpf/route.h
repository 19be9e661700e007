/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a router does with a packet: asks where it goes, and counts its time to live. */
#ifndef PYPROXY_ROUTE_H
#define PYPROXY_ROUTE_H

#include "packet.h"

/* What a packet's headers say to who forwards it. */
struct hop {
	__u32 length; /* in bytes, from the IP header on, of each piece that goes over a wire */
	__u8 ttl;
};

/* Return how long the header of a packet's transport is, 0 if that is not known. */
static __always_inline __u32 transport_bytes(const struct packet *packet, const void *transport,
					     const void *end)
{
	const struct tcp_header *tcp = transport;

	if (packet->proto == IPPROTO_UDP)
		return sizeof(struct udp_header);
	if ((void *)(tcp + 1) > end)
		return 0;
	return (tcp->words >> 4) * 4;
}

/* Read of a packet what hop has. Return false if that cannot be done. */
static __always_inline bool hop_read(const struct __sk_buff *skb, const struct packet *packet,
				     struct hop *hop)
{
	const void *data = (void *)(long)skb->data;
	const void *end = (void *)(long)skb->data_end;
	const struct ip_header *ip = data + ETH_HLEN;

	/* a plain one: nothing stands in between */
	if ((void *)(ip + 1) > end || !is_plain(ip))
		return false;
	hop->ttl = ip->ttl;
	hop->length = ip_total(ip);
	if (skb->gso_size)
		hop->length = skb->gso_size + sizeof(*ip) + transport_bytes(packet, ip + 1, end);
	return true;
}

/* Fill in what the stack is asked of a packet with these ends, which has left the stack just now. */
static __always_inline void route_from(const struct __sk_buff *skb, const struct packet *packet,
				       const struct endpoint *src, const struct endpoint *dst,
				       struct bpf_fib_lookup *to)
{
	const struct ip_header *ip = (void *)(long)skb->data + ETH_HLEN;

	to->family = AF_FAMILY;
	to->l4_protocol = packet->proto;
	to->sport = be16(src->port);
	to->dport = be16(dst->port);
	/* of any: what is asked for is the route's MTU */
	to->tot_len = 1;
	to->ifindex = skb->ingress_ifindex;
#if FAMILY == 4
	if ((void *)(ip + 1) <= (void *)(long)skb->data_end)
		to->tos = ip->tos;
	to->ipv4_src = src->addr.word[0];
	to->ipv4_dst = dst->addr.word[0];
#else
	if ((void *)(ip + 1) <= (void *)(long)skb->data_end)
		to->flowinfo = ip->version & be32(0x0fffffff);
	__builtin_memcpy(to->ipv6_src, &src->addr, sizeof(src->addr));
	__builtin_memcpy(to->ipv6_dst, &dst->addr, sizeof(dst->addr));
#endif /* FAMILY */
}

/*
 * Count a hop (RFC 1812 5.3.1, RFC 8200 3): give back the time to live that is left, and make up
 * for it in the checksum of the header, or of the packet where that has none.
 */
static __always_inline __u8 hop_count(struct __sk_buff *skb, struct packet *packet,
				      const struct hop *hop)
{
#if FAMILY == 4
	__u32 check = packet->check + be16(0x0100);

	packet->check = check + (check >= 0xffff);
#else
	bpf_csum_update(skb, (__u16)~be16(1));
#endif /* FAMILY */
	return hop->ttl - 1;
}

#endif /* PYPROXY_ROUTE_H */
