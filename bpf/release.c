/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup inet_sock_release: a socket of either family that ends leaves nothing behind. */
#include "association.h"

int sock_release(struct bpf_sock *ctx)
{
	struct cookie key = cookie_of(bpf_get_socket_cookie(ctx));

	/* one access whether it is there or not: looking first would be a second one */
	connected.delete(&key);
	return 1;
}
