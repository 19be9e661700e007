/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the headers of any packet are: after options, after extension headers, in a fragment. This
 * file, addr.h, family.h and icmp.h are the only ones that look at FAMILY.
 */
#ifndef PYPROXY_HEADERS_H
#define PYPROXY_HEADERS_H

#include "packet.h"

/* What part of a packet this is. */
enum part {
	PART_WHOLE,
	PART_FIRST, /* the first of its fragments: the only one that has a transport header */
	PART_LATER,
};

struct headers {
	struct addr src;
	struct addr dst;
	__u32 transport; /* its header's offset, or that of what a later fragment has */
	__u32 proto;
	__u32 part; /* enum part */
	__u32 id; /* by which fragments of one packet know each other; any byte order */
	__u16 check; /* of the IP header, if it has one */
};

#if FAMILY == 4

/* Look for the headers of the packet at `at`. Return false if it is none, or cut off. */
static __always_inline bool headers_find(struct __sk_buff *skb, __u32 at, struct headers *headers)
{
	struct ip_header ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version >> 4 != 4 ||
	    (ip.version & 0xf) < 5)
		return false;
	headers->src = ip.src;
	headers->dst = ip.dst;
	headers->check = ip.check;
	headers->transport = at + (ip.version & 0xf) * 4;
	headers->proto = ip.proto;
	headers->id = ip.id;
	headers->part = PART_WHOLE;
	if (ip.fragment & be16(IP_OFFSET))
		headers->part = PART_LATER;
	else if (ip.fragment & be16(IP_MORE))
		headers->part = PART_FIRST;
	return true;
}

/* Return what tells fragments of different packets of the same id apart (RFC 791 3.2). */
static __always_inline __u8 fragment_proto(const struct headers *headers)
{
	return headers->proto;
}

#else

/* More of them, or longer ones, nobody sends whom a service would want to answer. */
#define EXTENSIONS 6

struct extension { /* RFC 8200 4.3 to 4.6 */
	__u8 next;
	__u8 length; /* in units of 8 bytes, without the first 8; 0 in a fragment header */
	__be16 offset; /* a fragment header's, and whether more follow; a routing header's second byte
			  says how many hops are left */
	__be32 id; /* a fragment header's */
};

#define FRAGMENT_OFFSET 0xfff8
#define FRAGMENT_MORE 1
#define SEGMENTS_LEFT 0x00ff

/* Note what a fragment header says. */
static __always_inline void fragment_read(const struct extension *extension,
					  struct headers *headers)
{
	headers->id = extension->id;
	if (extension->offset & be16(FRAGMENT_OFFSET))
		headers->part = PART_LATER;
	else if (extension->offset & be16(FRAGMENT_MORE))
		headers->part = PART_FIRST;
}

/*
 * Look for the headers of the packet at `at`. Return false if it is none, cut off, or not at its
 * destination yet (rule 25: a routing header with hops left).
 */
static __always_inline bool headers_find(struct __sk_buff *skb, __u32 at, struct headers *headers)
{
	struct extension extension;
	struct ip_header ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) ||
	    (ip.version & be32(0xf0000000)) != be32(0x60000000))
		return false;
	headers->src = ip.src;
	headers->dst = ip.dst;
	headers->check = 0;
	headers->transport = at + sizeof(ip);
	headers->proto = ip.proto;
	headers->part = PART_WHOLE;
	for (int i = 0; i < EXTENSIONS; i++) {
		if (headers->part == PART_LATER || !is_extension(headers->proto))
			return true;
		if (bpf_skb_load_bytes(skb, headers->transport, &extension, sizeof(extension)))
			return false;
		if (headers->proto == IP_ROUTING && extension.offset & be16(SEGMENTS_LEFT))
			return false;
		headers->transport += sizeof(extension);
		if (headers->proto == IP_FRAGMENT)
			fragment_read(&extension, headers);
		else
			headers->transport += extension.length * 8;
		headers->proto = extension.next;
	}
	return !is_extension(headers->proto);
}

/* Return what tells fragments of different packets of the same id apart: nothing (RFC 8200 4.5). */
static __always_inline __u8 fragment_proto(const struct headers *headers)
{
	return 0;
}

#endif /* FAMILY */

/* Return whether services have a protocol. */
static __always_inline bool is_served(__u32 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/*
 * Read what is known of a packet whose headers were found, but for its ports: those of the
 * transport header if there is one. Return false if it is of no protocol that services have.
 */
static __always_inline bool headers_read(struct __sk_buff *skb, __u32 at,
					 const struct headers *headers, struct packet *packet)
{
	__be16 ports[2];

	packet->src.addr = headers->src;
	packet->dst.addr = headers->dst;
	packet->proto = headers->proto;
	packet->check = headers->check;
	packet->ip = at;
	packet->transport = headers->transport;
	if (headers->part == PART_LATER || !is_served(headers->proto) ||
	    bpf_skb_load_bytes(skb, headers->transport, ports, sizeof(ports)))
		return false;
	packet->src.port = host16(ports[0]);
	packet->dst.port = host16(ports[1]);
	return true;
}

#endif /* PYPROXY_HEADERS_H */
