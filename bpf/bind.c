/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup post_bind4/6: what a socket has bound, before it may keep it. */
#include "bind.h"

int post_bind(struct bpf_sock *ctx)
{
	struct endpoint own = bound_end(ctx);

	return bind_return(ctx, &own);
}
