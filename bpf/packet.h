/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a tc program must know of a packet: where its headers are, and both of its ends. */
#ifndef PYPROXY_PACKET_H
#define PYPROXY_PACKET_H

#include "family.h"

#define ETH_HLEN 14
#define ETH_ALEN 6
#define PACKET_HOST 0 /* include/uapi/linux/if_packet.h: for this node, or from it */
#define PACKET_OTHERHOST 3 /* for somebody else, whom it may be bridged to */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct tcp_header { /* RFC 9293 3.1 */
	__be16 src_port;
	__be16 dst_port;
	__be32 seq;
	__be32 ack;
	__u8 words; /* header length, in the upper half */
	__u8 flags;
	__be16 window;
	__u16 check;
	__be16 urgent;
};

struct udp_header { /* RFC 768 */
	__be16 src_port;
	__be16 dst_port;
	__be16 length;
	__u16 check;
};

/* Its first chunk follows the header; the checksum covers no addresses. */
struct sctp_header { /* RFC 9260 3.1, 3.2 */
	__be16 src_port;
	__be16 dst_port;
	__be32 tag;
	__u32 check; /* in little endian */
	__u8 chunk;
	__u8 flags;
	__be16 length;
};

enum sctp_chunk { /* RFC 9260 3.2 */
		  SCTP_INIT = 1,
		  SCTP_INIT_ACK = 2,
		  SCTP_ABORT = 6,
		  SCTP_SHUTDOWN = 7,
		  SCTP_SHUTDOWN_ACK = 8,
};

/* Offsets of the checksums. */
#define TCP_CHECK __builtin_offsetof(struct tcp_header, check)
#define UDP_CHECK __builtin_offsetof(struct udp_header, check)

struct packet {
	struct endpoint src;
	struct endpoint dst;
	__u32 ip; /* offsets of the headers */
	__u32 transport;
	__u16 check; /* of the IP header, if it has one */
	__u8 proto; /* IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP */
	__u8 flags; /* of TCP; UDP_UNSUMMED; sctp_flags() */
};

#define UDP_UNSUMMED 0x80 /* it has no checksum (RFC 768); none of the bits that begin anything */

#define VLAN_ID 0x0fff /* IEEE 802.1Q: 0 is no VLAN, the tag only says how urgent a frame is */

/* Return whether a frame is a VLAN's: that has a device of its own, whose programs see it. */
static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID;
}

enum reading {
	READ_DONE,
	READ_ICMP, /* of this family; only the offsets and the addresses are read */
	READ_OTHER, /* no protocol of ours, or cut off */
	READ_SHORT, /* its headers are there, but not in one piece */
};

/* Return why a packet's headers end before they should. */
static __always_inline enum reading reading_cut(struct __sk_buff *skb, const void *data,
						const void *end)
{
	return skb->len > end - data ? READ_SHORT : READ_OTHER;
}

/* What TCP would say, in four bits for each chunk: associations begin and end like connections. */
#define SCTP_SYN 1
#define SCTP_RST 2
#define SCTP_FIN 4
#define SCTP_NO_ACK 8
#define SCTP_SAYS(chunk, bits) ((__u64)(bits) << 4 * (chunk))
#define SCTP_WORDS                                                                                 \
	(SCTP_SAYS(SCTP_INIT, SCTP_SYN | SCTP_NO_ACK) | SCTP_SAYS(SCTP_INIT_ACK, SCTP_SYN) |       \
	 SCTP_SAYS(SCTP_ABORT, SCTP_RST | SCTP_NO_ACK) | SCTP_SAYS(SCTP_SHUTDOWN, SCTP_FIN) |      \
	 SCTP_SAYS(SCTP_SHUTDOWN_ACK, SCTP_FIN))

/* Return TCP's flags for an SCTP packet by its first chunk. No branch: verifiers walk each. */
static __always_inline __u8 sctp_flags(__u8 chunk)
{
	__u32 says = chunk < 16 ? SCTP_WORDS >> 4 * (chunk & 15) & 15 : 0;

	return (says & SCTP_SYN ? TCP_SYN : 0) | (says & SCTP_RST ? TCP_RST : 0) |
	       (says & SCTP_FIN ? TCP_FIN : 0) | (says & SCTP_NO_ACK ? 0 : TCP_ACK);
}

/* Read ports and flags of the transport header at `transport`. */
static __always_inline enum reading transport_read(struct __sk_buff *skb, const void *transport,
						   const void *end, struct packet *packet)
{
	const struct tcp_header *tcp = transport;
	const struct udp_header *udp = transport;
	const struct sctp_header *sctp = transport;

	if (packet->proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return reading_cut(skb, (void *)(long)skb->data, end);
		packet->flags = tcp->flags;
	} else if (packet->proto == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return reading_cut(skb, (void *)(long)skb->data, end);
		packet->flags = udp->check ? 0 : UDP_UNSUMMED;
	} else if (packet->proto == IPPROTO_SCTP) {
		if ((void *)(sctp + 1) > end)
			return reading_cut(skb, (void *)(long)skb->data, end);
		packet->flags = sctp_flags(sctp->chunk);
	} else {
		return packet->proto == IPPROTO_ICMP_FAMILY ? READ_ICMP : READ_OTHER;
	}
	packet->src.port = host16(udp->src_port);
	packet->dst.port = host16(udp->dst_port);
	return READ_DONE;
}

/*
 * Read the packet whose IP header is at offset `at`, with the transport's at `transport`. Its
 * headers are in one piece, or it is READ_SHORT.
 */
static __always_inline enum reading headers_take(struct __sk_buff *skb, __u32 at, __u32 transport,
						 struct packet *packet)
{
	const void *data = (void *)(long)skb->data;
	const void *end = (void *)(long)skb->data_end;
	const struct ip_header *ip = data + at;

	packet->ip = at;
	if ((void *)(ip + 1) > end)
		return reading_cut(skb, data, end);
	packet->src.addr = ip->src;
	packet->dst.addr = ip->dst;
	packet->src.pad = packet->dst.pad = 0;
	packet->check = ip_check(ip);
	packet->transport = transport;
	return transport_read(skb, data + transport, end, packet);
}

/* Read the packet whose IP header is at offset `at`: a plain one (is_plain()). */
static __always_inline enum reading packet_read(struct __sk_buff *skb, __u32 at,
						struct packet *packet)
{
	const struct ip_header *ip = (void *)(long)skb->data + at;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return READ_OTHER;
	packet->proto = ip->proto;
	return headers_take(skb, at, at + sizeof(*ip), packet);
}

/* Return the ends of what answers a packet; nothing else of it is known. */
static __always_inline struct packet packet_answer(const struct packet *packet)
{
	struct packet answer = {
		.src = packet->dst,
		.dst = packet->src,
		.proto = packet->proto,
	};

	return answer;
}

/* How far into a packet a transport's header may be; the mask of such an offset. */
#define TRANSPORT_MAX 0x1ff

/* Return what tells stages where a packet's transport header is, and of which protocol. */
static __always_inline __u32 stage_word(__u32 transport, __u32 proto)
{
	return transport | proto << 16;
}

/*
 * Go on in another program. It finds in cb where the IP header is (at 0 or after an Ethernet
 * header), the side, and stage_word(). Returns only if there is no such program, or after too many.
 */
static __always_inline void stage_call(struct __sk_buff *skb, __u32 stage, __u32 at, __u32 side,
				       __u32 word)
{
	skb->cb[0] = at;
	skb->cb[1] = side;
	skb->cb[4] = word;
	stages.call(skb, stage);
}

/* Go on in another program with a packet that was read. */
static __always_inline void stage_enter(struct __sk_buff *skb, __u32 stage,
					const struct packet *packet, __u32 side)
{
	stage_call(skb, stage, packet->ip, side, stage_word(packet->transport, packet->proto));
}

/* Go on to look for the headers of a packet: it is no plain one, or in pieces. */
static __always_inline void stage_headers(struct __sk_buff *skb, __u32 at, __u32 side)
{
	stage_call(skb, STAGE_HEADERS, at, side, 0);
}

/* Return where the IP header is, as stage_call() says. */
static __always_inline __u32 stage_ip(const struct __sk_buff *skb)
{
	return skb->cb[0] ? ETH_HLEN : 0;
}

/* Return which side the packet is at, as stage_call() says. */
static __always_inline __u32 stage_side(const struct __sk_buff *skb)
{
	return skb->cb[1] ? SIDE_EGRESS : SIDE_INGRESS;
}

/* Read the packet that a stage is entered with. */
static __always_inline enum reading stage_read(struct __sk_buff *skb, struct packet *packet)
{
	__u32 word = skb->cb[4];

	packet->proto = word >> 16;
	return headers_take(skb, stage_ip(skb), word & TRANSPORT_MAX, packet);
}

/* Go on to open a connection: on another port if the one before clashed. */
static __always_inline void stage_open(struct __sk_buff *skb, const struct packet *packet,
				       bool clash)
{
	skb->cb[2] = clash;
	stage_enter(skb, STAGE_OPEN, packet, SIDE_INGRESS);
}

/* Return what stage_open() says; the stages after it find the same. */
static __always_inline bool stage_clash(const struct __sk_buff *skb)
{
	return skb->cb[2];
}

/* Try the fast path first; what is not worth a look has no other one. */
static __always_inline void stage_fast(struct __sk_buff *skb, const struct packet *packet,
				       bool is_worth)
{
	skb->cb[2] = is_worth;
	stage_enter(skb, STAGE_FAST, packet, SIDE_INGRESS);
}

/*
 * Go on to note where the stack sends what is translated: `way` says whose it is, a request's or an
 * answer's. 0: a request's that nothing more is to be done to, unless it is worth a look.
 */
static __always_inline void stage_way(struct __sk_buff *skb, __u32 at, __u32 way, bool is_worth)
{
	skb->cb[2] = way;
	skb->cb[3] = is_worth;
	stage_call(skb, STAGE_WAY, at, SIDE_EGRESS, 0);
}

/* Go on to send what leaves by another uplink. */
static __always_inline void stage_back(struct __sk_buff *skb, __u32 at, __u32 uplink)
{
	skb->cb[2] = uplink;
	stage_call(skb, STAGE_BACK, at, SIDE_EGRESS, 0);
}

/* Begin again, in a stage: with the packet and at the side that it was entered with. */
static __always_inline void stage_again(struct __sk_buff *skb, __u32 side)
{
	stages.call(skb, side == SIDE_EGRESS ? STAGE_EGRESS : STAGE_INGRESS);
}

/* What says that the former table was looked into at this side; by chance it is hardly there. */
#define LOOKED_BACK 0x6c6f6f6b

/*
 * Look for a packet's connection in the former table, if there is one (rule 23). Returns only if
 * there is none, or nothing in it.
 */
static __always_inline void look_back(struct __sk_buff *skb, const struct packet *packet,
				      __u32 side)
{
	if (skb->cb[3] != LOOKED_BACK + side)
		stage_enter(skb, STAGE_ADOPT, packet, side);
}

/* Note that it was looked for. */
static __always_inline void looked_back(struct __sk_buff *skb, __u32 side)
{
	skb->cb[3] = LOOKED_BACK + side;
}

/* Return the upper half of a number of a TCP segment that was read, as host16() has it. */
static __always_inline __u16 upper_half(struct __sk_buff *skb, const struct packet *packet,
					__u32 field)
{
	__be16 half = 0;

	bpf_skb_load_bytes(skb, packet->transport + field, &half, sizeof(half));
	return host16(half);
}

/* Offsets of the numbers. */
#define TCP_SEQ __builtin_offsetof(struct tcp_header, seq)
#define TCP_ACK_SEQ __builtin_offsetof(struct tcp_header, ack)

/* Return whether the packet begins a connection of TCP or SCTP (rule 3). */
static __always_inline bool is_first(const struct packet *packet)
{
	return (packet->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* Return whether the packet may begin a connection: a first one, or any of UDP. */
static __always_inline bool may_open(const struct packet *packet)
{
	return packet->proto == IPPROTO_UDP || is_first(packet);
}

#endif /* PYPROXY_PACKET_H */
