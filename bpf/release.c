/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup inet_sock_release: a socket of either family that ends leaves nothing behind. */
#include "association.h"
#include "family.h"

#define AF_INET6 10

/* Return the address that a socket is connected to, folded as addr_fold() does. */
static __always_inline __u32 peer_fold(const struct bpf_sock *ctx)
{
	if (ctx->family != AF_INET6)
		return ctx->dst_ip4;
	if (!ctx->dst_ip6[0] && !ctx->dst_ip6[1] && ctx->dst_ip6[2] == MAPPED_PREFIX)
		return ctx->dst_ip6[3];
	return ctx->dst_ip6[0] ^ ctx->dst_ip6[1] ^ ctx->dst_ip6[2] ^ ctx->dst_ip6[3];
}

/*
 * Return whether a socket may be in `connected`. Most are not, those that were accepted above
 * all, and to look for them there costs a cache miss. A socket that is connected no longer does
 * not say to whom it was.
 */
static __always_inline bool may_be_connected(const struct bpf_sock *ctx)
{
	__u16 port = host16(ctx->dst_port);

	return !port || is_socket_marked(peer_fold(ctx), port);
}

int sock_release(struct bpf_sock *ctx)
{
	struct cookie key;

	if (!may_be_connected(ctx))
		return 1;
	key = cookie_of(bpf_get_socket_cookie(ctx));
	/* one access whether it is there or not: looking first would be a second one */
	connected_delete(ctx->type, &key);
	return 1;
}
