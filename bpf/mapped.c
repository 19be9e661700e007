/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The IPv6 hooks for sockets that use IPv4-mapped addresses: compiled for IPv4 only. */
#include "sock.h"

int connect_mapped(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	enum verdict verdict;

	if (!mapped_load(ctx, &peer))
		return ALLOW;
	verdict = sock_connect(ctx, &peer);
	if (connect_address(verdict, &peer))
		mapped_store(ctx, &peer);
	return sock_return(verdict);
}

int sendmsg_mapped(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	enum verdict verdict;

	if (!mapped_load(ctx, &peer))
		return ALLOW;
	verdict = sock_sendmsg(ctx, &peer);
	if (verdict == VERDICT_FORWARD)
		mapped_store(ctx, &peer);
	return sock_return(verdict);
}

int recvmsg_mapped(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;

	if (mapped_load(ctx, &peer) && sock_recvmsg(ctx, &peer))
		mapped_store(ctx, &peer);
	return ALLOW;
}

int getpeername_mapped(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;

	if (mapped_load(ctx, &peer) && sock_getpeername(ctx, &peer))
		mapped_store(ctx, &peer);
	return ALLOW;
}
