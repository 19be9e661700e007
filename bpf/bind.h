/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * No socket of the node gets a port that is served there as a NodePort: it would hear nothing from
 * outside, and nobody would know why. kube-proxy protects nothing.
 */
#ifndef PYPROXY_BIND_H
#define PYPROXY_BIND_H

#include "sock.h"

/* Return whether the kernel chooses a port for sockets that ask for none: not a reserved one. */
static __always_inline bool is_chosen(__u16 port)
{
	__u64 local = setting(SETTING_LOCAL_PORTS);

	return (__u32)port - (__u32)local < (__u32)(local >> 32) && !is_reserved(port);
}

/*
 * Return whether a socket's own address and port are a NodePort that is served. A port that the
 * kernel has chosen looks the same, so those that it chooses from are left alone; so is what
 * servers of the service itself listen on, which have the node's addresses.
 */
static __always_inline bool is_taken(struct bpf_sock *ctx, const struct endpoint *own)
{
	__u8 proto = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	struct target target;

	if (!(setting(SETTING_POLICY) & POLICY_PROTECT_PORTS) || is_chosen(own->port))
		return false;
	target = node_port_match(own, proto);
	return target.service && !target.unserved && !target.bindable &&
	       bpf_get_netns_cookie(ctx) == setting(SETTING_NETNS);
}

/* Return what the hook returns. Where no error can be given, a bare EPERM would tell nobody. */
static __always_inline int bind_return(struct bpf_sock *ctx, const struct endpoint *own)
{
#if HAVE_SET_RETVAL
	if (is_taken(ctx, own)) {
		count(COUNTER_BIND_REFUSED);
		bpf_set_retval(-EADDRINUSE);
		return DENY;
	}
#endif /* HAVE_SET_RETVAL */
	return ALLOW;
}

#endif /* PYPROXY_BIND_H */
