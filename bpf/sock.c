/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup connect4/6, sendmsg4/6, recvmsg4/6, getpeername4/6: one object a family. */
#include "sock.h"

int connect(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	enum verdict verdict;

	if (!peer_load(ctx, &peer))
		return ALLOW;
	verdict = sock_connect(ctx, &peer);
	if (connect_address(verdict, &peer))
		peer_store(ctx, &peer);
	return sock_return(verdict);
}

int sendmsg(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	enum verdict verdict;

	if (!peer_load(ctx, &peer))
		return ALLOW;
	verdict = sock_sendmsg(ctx, &peer);
	if (verdict == VERDICT_FORWARD)
		peer_store(ctx, &peer);
	return sock_return(verdict);
}

int recvmsg(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;

	if (peer_load(ctx, &peer) && sock_recvmsg(ctx, &peer))
		peer_store(ctx, &peer);
	return ALLOW;
}

int getpeername(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;

	if (peer_load(ctx, &peer) && sock_getpeername(ctx, &peer))
		peer_store(ctx, &peer);
	return ALLOW;
}
