/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What else differs by family: where a socket address stands in the hook's context.
 * addr.h and this file are the only ones that look at FAMILY.
 */
#ifndef PYPROXY_FAMILY_H
#define PYPROXY_FAMILY_H

#include "types.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define host16(v) __builtin_bswap16(v)
#define be32(v) __builtin_bswap32(v)
#else
#define host16(v) (v)
#define be32(v) (v)
#endif /* __BYTE_ORDER__ */
#define be16(v) host16(v)

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

#define MAPPED_PREFIX be32(0x0000ffff) /* third word of ::ffff:a.b.c.d (RFC 4291 2.5.5.2) */

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

#define ETH_P_FAMILY be16(0x0800)

/*
 * Read what an IPv4 packet at offset is: protocol, destination address, and where its
 * transport header is. Return false for what has none of its own (later fragments).
 */
static __always_inline bool ip_load(struct __sk_buff *skb, __u32 offset, __u8 *proto,
				    struct addr *dst, __u32 *transport)
{
	__u8 header[20]; /* RFC 791 3.1 */

	if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)) < 0)
		return false;
	if (header[0] >> 4 != 4 || (header[0] & 0xf) < 5)
		return false;
	if ((header[6] & 0x1f) | header[7])
		return false;
	*proto = header[9];
	__builtin_memcpy(dst, header + 16, sizeof(*dst));
	*transport = offset + (header[0] & 0xf) * 4;
	return true;
}

#else

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

#define ETH_P_FAMILY be16(0x86dd)

/*
 * Read what an IPv6 packet at offset is: protocol, destination address, and where its
 * transport header is. A packet with extension headers reads as their protocol.
 */
static __always_inline bool ip_load(struct __sk_buff *skb, __u32 offset, __u8 *proto,
				    struct addr *dst, __u32 *transport)
{
	__u8 header[40]; /* RFC 8200 3 */

	if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)) < 0)
		return false;
	if (header[0] >> 4 != 6)
		return false;
	*proto = header[6];
	__builtin_memcpy(dst, header + 24, sizeof(*dst));
	*transport = offset + sizeof(header);
	return true;
}

#endif /* FAMILY */

#endif /* PYPROXY_FAMILY_H */
