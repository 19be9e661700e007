/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup post_bind6 for what IPv6 sockets take of IPv4: an IPv4-mapped address, or all addresses.
 * A socket for IPv6 alone looks the same here, and is refused as well.
 */
#include "bind.h"

int post_bind_mapped(struct bpf_sock *ctx)
{
	struct endpoint own = {};

	return bound_mapped(ctx, &own) ? bind_return(ctx, &own) : ALLOW;
}
