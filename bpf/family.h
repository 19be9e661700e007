/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What else differs by family: where a socket address stands in the hook's context.
 * addr.h, this file, headers.h, icmp.h and route.h are the only ones that look at FAMILY.
 */
#ifndef PYPROXY_FAMILY_H
#define PYPROXY_FAMILY_H

#include "maps.h"

/* TC_ACT_UNSPEC and TCX_NEXT: the next program decides, never past it (rule 1) */
#define TC_NEXT -1
#define TC_DROP 2 /* TC_ACT_SHOT and TCX_DROP */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define host16(v) __builtin_bswap16(v)
#define be32(v) __builtin_bswap32(v)
#else
#define host16(v) (v)
#define be32(v) (v)
#endif /* __BYTE_ORDER__ */
#define be16(v) host16(v)

#define ETH_P_IPV6 be16(0x86dd)

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_SCTP 132

#define MAPPED_PREFIX be32(0x0000ffff) /* third word of ::ffff:a.b.c.d (RFC 4291 2.5.5.2) */

/* Return a sum of 32-bit words folded into one, in ones' complement (RFC 1071). */
static __always_inline __u32 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

/* Return a sum folded into 16 bits: what a checksum is the complement of. */
static __always_inline __u16 checksum_of(__u64 sum)
{
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Return the sum of an address by which checksums change when it goes or comes. */
static __always_inline __u64 addr_sum(const struct addr *addr)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < ADDR_WORDS; i++)
		sum += addr->word[i];
	return sum;
}

/* Return the sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1). */
static __always_inline __u32 pseudo_sum(const struct addr *src, const struct addr *dst, __u8 proto,
					__u32 length)
{
	return sum_fold(addr_sum(src) + addr_sum(dst) + be32(proto) + be32(length));
}

/* Return whether the IPv6 address of the context is an IPv4-mapped one. */
static __always_inline bool is_mapped(const struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == MAPPED_PREFIX;
}

#if FAMILY == 4

/* Read the address that the hook is about. Return false if it is not this family's. */
static __always_inline bool peer_load(const struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	peer->addr.word[0] = ctx->user_ip4;
	peer->port = host16((__u16)ctx->user_port);
	peer->pad = 0;
	return true;
}

/* Replace the address that the hook is about. */
static __always_inline void peer_store(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip4 = peer->addr.word[0];
	ctx->user_port = be16(peer->port);
}

/* Return the address that a socket is bound to, no address if to none. */
static __always_inline struct addr bound_address(const struct bpf_sock *sk)
{
	struct addr addr = { .word = { sk ? sk->src_ip4 : 0 } };

	return addr;
}

/* Return the address that a socket is connected to, no address if to none. */
static __always_inline struct addr connected_address(const struct bpf_sock *sk)
{
	struct addr addr = { .word = { sk ? sk->dst_ip4 : 0 } };

	return addr;
}

/* As peer_load, for IPv6 sockets that use IPv4-mapped addresses. */
static __always_inline bool mapped_load(const struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	if (!is_mapped(ctx))
		return false;
	peer->addr.word[0] = ctx->user_ip6[3];
	peer->port = host16((__u16)ctx->user_port);
	peer->pad = 0;
	return true;
}

/* As peer_store, for IPv6 sockets that use IPv4-mapped addresses. */
static __always_inline void mapped_store(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip6[3] = peer->addr.word[0];
	ctx->user_port = be16(peer->port);
}

/* Return the address and port that a socket has bound. */
static __always_inline struct endpoint bound_end(const struct bpf_sock *ctx)
{
	struct endpoint own = { .port = ctx->src_port };

	own.addr.word[0] = ctx->src_ip4;
	return own;
}

/* Read what an IPv6 socket has bound of IPv4. Return false if that is nothing. */
static __always_inline bool bound_mapped(const struct bpf_sock *ctx, struct endpoint *own)
{
	__u32 third = ctx->src_ip6[2], fourth = ctx->src_ip6[3];

	if (ctx->src_ip6[0] || ctx->src_ip6[1] || (third ? third != MAPPED_PREFIX : fourth))
		return false;
	own->addr.word[0] = fourth;
	own->port = ctx->src_port;
	return true;
}

#define ETH_P_FAMILY be16(0x0800)
#define AF_FAMILY 2 /* AF_INET */
#define IP_PLAIN 0x45 /* version and length of a header without options: its first byte */
#define IPPROTO_ICMP_FAMILY 1

struct ip_header { /* RFC 791 3.1 */
	__u8 version; /* and length in words */
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment; /* and flags */
	__u8 ttl;
	__u8 proto;
	__u16 check;
	struct addr src;
	struct addr dst;
};

/* ip_header.fragment (RFC 791 3.1) */
#define IP_OFFSET 0x1fff /* in units of 8 bytes */
#define IP_MORE 0x2000 /* fragments follow */

#define IP_ENDS 10 /* offset of what changes: the header's checksum and what follows */

/* What changes when a packet gets other ends, as it lies in one without options. */
struct ip_ends {
	__u16 check;
	struct addr src;
	struct addr dst;
	__be16 ports[2];
} __attribute__((packed));

/* Return the header's checksum. */
static __always_inline __u16 ip_check(const struct ip_header *ip)
{
	return ip->check;
}

/* Put the header's checksum right, which changes by `diff`. */
static __always_inline void ip_ends_check(struct ip_ends *ends, __u16 check, __u32 diff)
{
	ends->check = ~checksum_of((__u64)(__u16)~check + diff);
}

/* Return whether the header is as most are: a transport's follows it at once. */
static __always_inline bool is_plain(const struct ip_header *ip)
{
	return ip->version == IP_PLAIN && !(ip->fragment & be16(IP_OFFSET | IP_MORE));
}

/* The header's checksum makes up for other addresses: the sum of the whole packet stays. */
static __always_inline void packet_sum_fix(struct __sk_buff *skb, __u32 diff)
{
}

/* Return how many bytes the packet has from its IP header on, as that says. */
static __always_inline __u32 ip_total(const struct ip_header *ip)
{
	return host16(ip->length);
}

/* Return the header of an answer from src to dst, of `length` bytes after the header. */
static __always_inline struct ip_header ip_answer(const struct addr *src, const struct addr *dst,
						  __u8 proto, __u32 length)
{
	struct ip_header ip = {
		.version = IP_PLAIN,
		.length = be16(sizeof(ip) + length),
		.fragment = be16(0x4000), /* never to be cut: the id needs no meaning (RFC 6864) */
		.ttl = 64,
		.proto = proto,
		.src = *src,
		.dst = *dst,
	};

	ip.check = ~checksum_of(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	return ip;
}

/* Let the other family's program have a packet that is not this one's. */
static __always_inline int hand_over(struct __sk_buff *skb, __u32 entry)
{
	if (skb->protocol == ETH_P_IPV6)
		other_family.call(skb, entry);
	return TC_NEXT;
}

#else

/* Return the address and port that a socket has bound. */
static __always_inline struct endpoint bound_end(const struct bpf_sock *ctx)
{
	struct endpoint own = { .port = ctx->src_port };

	own.addr.word[0] = ctx->src_ip6[0];
	own.addr.word[1] = ctx->src_ip6[1];
	own.addr.word[2] = ctx->src_ip6[2];
	own.addr.word[3] = ctx->src_ip6[3];
	return own;
}

/* Read the address that the hook is about. Return false if it is an IPv4-mapped one. */
static __always_inline bool peer_load(const struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	if (is_mapped(ctx))
		return false;
	peer->addr.word[0] = ctx->user_ip6[0];
	peer->addr.word[1] = ctx->user_ip6[1];
	peer->addr.word[2] = ctx->user_ip6[2];
	peer->addr.word[3] = ctx->user_ip6[3];
	peer->port = host16((__u16)ctx->user_port);
	peer->pad = 0;
	return true;
}

/* Replace the address that the hook is about. */
static __always_inline void peer_store(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip6[0] = peer->addr.word[0];
	ctx->user_ip6[1] = peer->addr.word[1];
	ctx->user_ip6[2] = peer->addr.word[2];
	ctx->user_ip6[3] = peer->addr.word[3];
	ctx->user_port = be16(peer->port);
}

/* Return the address that a socket is bound to, no address if to none. */
static __always_inline struct addr bound_address(const struct bpf_sock *sk)
{
	struct addr addr = {};

	if (!sk)
		return addr;
	addr.word[0] = sk->src_ip6[0];
	addr.word[1] = sk->src_ip6[1];
	addr.word[2] = sk->src_ip6[2];
	addr.word[3] = sk->src_ip6[3];
	return addr;
}

/* Return the address that a socket is connected to, no address if to none. */
static __always_inline struct addr connected_address(const struct bpf_sock *sk)
{
	struct addr addr = {};

	if (!sk)
		return addr;
	addr.word[0] = sk->dst_ip6[0];
	addr.word[1] = sk->dst_ip6[1];
	addr.word[2] = sk->dst_ip6[2];
	addr.word[3] = sk->dst_ip6[3];
	return addr;
}

#define ETH_P_FAMILY ETH_P_IPV6
#define AF_FAMILY 10 /* AF_INET6 */
#define IPPROTO_ICMP_FAMILY 58 /* ICMPv6 */

struct ip_header { /* RFC 8200 3 */
	__be32 version; /* and traffic class, flow label */
	__be16 length; /* of what follows */
	__u8 proto; /* the next header: an extension header's number where one follows */
	__u8 ttl;
	struct addr src;
	struct addr dst;
};

/* Extension headers (RFC 8200 4): hop-by-hop options, routing, fragment, destination options. */
#define IP_ROUTING 43
#define IP_FRAGMENT 44
#define IP_EXTENSIONS (1ULL << 0 | 1ULL << IP_ROUTING | 1ULL << IP_FRAGMENT | 1ULL << 60)

#define IP_ENDS 8 /* offset of what changes: the addresses and what follows */

/* What changes when a packet gets other ends, as it lies in one without extension headers. */
struct ip_ends {
	struct addr src;
	struct addr dst;
	__be16 ports[2];
} __attribute__((packed));

/* The header has no checksum. */
static __always_inline __u16 ip_check(const struct ip_header *ip)
{
	return 0;
}

/* The header has no checksum. */
static __always_inline void ip_ends_check(struct ip_ends *ends, __u16 check, __u32 diff)
{
}

/* Return whether a header's number is that of an extension header after which there is more. */
static __always_inline bool is_extension(__u32 number)
{
	return number < 64 && IP_EXTENSIONS >> number & 1;
}

/* Return whether the header is as most are: a transport's follows it at once. */
static __always_inline bool is_plain(const struct ip_header *ip)
{
	return (ip->version & be32(0xf0000000)) == be32(0x60000000) && !is_extension(ip->proto);
}

/*
 * Put the sum right that a device may have made of the whole packet. The transport's checksum
 * makes up for addresses that changed by `diff`, so that it stays, but bpf_l4_csum_replace()
 * has subtracted `diff` as if this were IPv4 (rule 24).
 */
static __always_inline void packet_sum_fix(struct __sk_buff *skb, __u32 diff)
{
	bpf_csum_update(skb, checksum_of(diff));
}

/* Return how many bytes the packet has from its IP header on, as that says. */
static __always_inline __u32 ip_total(const struct ip_header *ip)
{
	return sizeof(*ip) + host16(ip->length);
}

/* Return the header of an answer from src to dst, of `length` bytes after the header. */
static __always_inline struct ip_header ip_answer(const struct addr *src, const struct addr *dst,
						  __u8 proto, __u32 length)
{
	struct ip_header ip = {
		.version = be32(0x60000000),
		.length = be16(length),
		.proto = proto,
		.ttl = 64,
		.src = *src,
		.dst = *dst,
	};

	return ip;
}

/* This family's programs are entered from the other one's: they get nothing else. */
static __always_inline int hand_over(struct __sk_buff *skb, __u32 entry)
{
	return TC_NEXT;
}

#endif /* FAMILY */

#endif /* PYPROXY_FAMILY_H */
