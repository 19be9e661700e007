/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sockets path, blind to the family and to how an address stands in the context:
 * sock.c and mapped.c hand the address in and store what comes back.
 */
#ifndef PYPROXY_SOCK_H
#define PYPROXY_SOCK_H

#include "association.h"
#include "family.h"

#define IPPROTO_MPTCP 262 /* RFC 8684: to everybody else it is TCP */
#define ECONNREFUSED 111

#define ALLOW 1
#define DENY 0

/* Return the protocol by which a service is looked up, 0 for those that have no services. */
static __always_inline __u8 sock_proto(const struct bpf_sock_addr *ctx)
{
	switch (ctx->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_MPTCP:
		return IPPROTO_TCP;
	case IPPROTO_UDP:
		return IPPROTO_UDP;
	default:
		return 0;
	}
}

/*
 * Return what the hook returns for verdict. A refusal is ECONNREFUSED, never the bare
 * EPERM of a denying hook: NFS and SMB loop on EPERM. Kernels without bpf_set_retval
 * (before 5.18) let the address pass untranslated instead.
 */
static __always_inline int sock_return(enum verdict verdict)
{
	if (verdict != VERDICT_REFUSE)
		return ALLOW;
	count(COUNTER_REFUSED);
#if HAVE_SET_RETVAL
	bpf_set_retval(-ECONNREFUSED);
	return DENY;
#else
	return ALLOW;
#endif /* HAVE_SET_RETVAL */
}

/* Return whether the packets of the socket are translated, not the socket (SETTING_HOST_NETNS). */
static __always_inline bool is_left_to_packets(struct bpf_sock_addr *ctx)
{
	__u64 host = setting(SETTING_HOST_NETNS);

	return host && bpf_get_netns_cookie(ctx) != host;
}

/* Return the service that a socket asks for, 0 for what it is to reach as it is. */
static __always_inline __u32 sock_service(struct bpf_sock_addr *ctx, const struct endpoint *peer,
					  __u8 proto)
{
	return proto && !is_left_to_packets(ctx) ? frontend_lookup(peer, proto) : 0;
}

/* Decide where a socket that connects to *peer really goes; write it to *peer. */
static __always_inline enum verdict sock_connect(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	__u32 service = sock_service(ctx, peer, sock_proto(ctx));
	struct pick picked = {};
	enum verdict verdict;

	if (!service) {
		connected_forget(ctx);
		return VERDICT_PASS;
	}
	verdict = backend_pick(service, &picked);
	if (verdict != VERDICT_FORWARD) {
		connected_forget(ctx);
		if (verdict == VERDICT_DROP)
			count(COUNTER_LEFT_TO_DROP);
		return verdict;
	}
	connected_write(ctx, peer, &picked);
	count(COUNTER_CONNECT);
	*peer = picked.backend;
	return VERDICT_FORWARD;
}

/*
 * Give the service a backend for this socket's datagrams: the one it has (old) while that
 * is a member, else a new one. The backend that counts stands in kept afterwards.
 */
static __always_inline enum verdict udp_backend(__u32 service, const struct endpoint *peer,
						bool has_old, struct association *kept)
{
	struct pick picked = {};
	enum verdict verdict;

	if (has_old && backend_is_member(service, &kept->backend, &kept->generation))
		return VERDICT_FORWARD;
	verdict = backend_pick(service, &picked);
	if (verdict == VERDICT_FORWARD)
		*kept = association_of(peer, &picked);
	return verdict;
}

/* Return whether the socket is connected: UDP sockets use TCP's state for that. */
static __always_inline bool is_connected(const struct bpf_sock_addr *ctx)
{
	return ctx->sk && ctx->sk->state == BPF_TCP_ESTABLISHED;
}

/*
 * A datagram to no service: from now on its receiver is itself, not a service's backend. Not
 * so on a connected socket: send() on an IPv6 one with an IPv4-mapped peer comes by the IPv4
 * hook, with the backend's address as if it had been given (udpv6_sendmsg).
 */
static __always_inline void udp_direct(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	struct sock_nat *nat = sock_nat.sk_storage_get(ctx->sk, 0, 0);

	if (!nat || is_connected(ctx))
		return;
	first_forget(nat, peer);
	if (nat->more)
		more_forget(bpf_get_socket_cookie(ctx), peer);
}

/* The datagram's service is the socket's first one, or the first is free. */
static __always_inline enum verdict udp_send_first(struct bpf_sock_addr *ctx, struct sock_nat *nat,
						   __u32 service, struct endpoint *peer)
{
	struct association kept = nat->first;
	enum verdict verdict = udp_backend(service, peer, kept.service_id == service, &kept);

	if (verdict != VERDICT_FORWARD)
		return verdict;
	nat->first = kept;
	/* the backend answers for this service now, whichever it answered for before */
	if (nat->more)
		more_forget(bpf_get_socket_cookie(ctx), &kept.backend);
	*peer = kept.backend;
	return VERDICT_FORWARD;
}

/* The datagram's service is the socket's second or a further one. */
static __always_inline enum verdict udp_send_more(struct bpf_sock_addr *ctx, struct sock_nat *nat,
						  __u32 service, struct endpoint *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct association kept = {};
	bool has_kept = more_read(cookie, service, &kept);
	enum verdict verdict = udp_backend(service, peer, has_kept, &kept);

	if (verdict != VERDICT_FORWARD)
		return verdict;
	nat->more = 1;
	kept.service = *peer;
	more_write(cookie, &kept);
	*peer = kept.backend;
	return VERDICT_FORWARD;
}

/* Decide where a datagram that an unconnected socket sends to *peer really goes. */
static __always_inline enum verdict sock_sendmsg(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	__u32 service = sock_service(ctx, peer, sock_proto(ctx) == IPPROTO_UDP ? IPPROTO_UDP : 0);
	struct endpoint backend;
	enum verdict verdict;
	struct sock_nat *nat;

	if (!service) {
		udp_direct(ctx, peer);
		return VERDICT_PASS;
	}
	/* it takes answers from the peer it is connected to only, so that one stays */
	if (is_connected(ctx) &&
	    connected_backend(ctx, sock_nat.sk_storage_get(ctx->sk, 0, 0), peer, &backend)) {
		*peer = backend;
		count(COUNTER_SENDMSG);
		return VERDICT_FORWARD;
	}
	nat = sock_nat.sk_storage_get(ctx->sk, 0, SK_STORAGE_CREATE);
	if (!nat)
		return VERDICT_REFUSE;
	if (!nat->first.service_id || endpoint_equal(&nat->first.service, peer))
		verdict = udp_send_first(ctx, nat, service, peer);
	else
		verdict = udp_send_more(ctx, nat, service, peer);
	if (verdict == VERDICT_FORWARD)
		count(COUNTER_SENDMSG);
	else if (verdict == VERDICT_DROP)
		count(COUNTER_LEFT_TO_DROP);
	return verdict;
}

/* Replace the source of a received datagram by the service it answers for, if any. */
static __always_inline bool sock_recvmsg(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	struct sock_nat *nat = sock_nat.sk_storage_get(ctx->sk, 0, 0);

	/* where two services share a backend, the one that was used last stands here */
	if (nat && nat->more && more_service(bpf_get_socket_cookie(ctx), peer, peer))
		return true;
	if (first_service(nat, peer))
		return true;
	return is_connected(ctx) && connected_service(ctx, peer);
}

/* Replace the peer of a connected socket by the service it asked for, if any. */
static __always_inline bool sock_getpeername(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	return connected_service(ctx, peer) ||
	       first_service(sock_nat.sk_storage_get(ctx->sk, 0, 0), peer);
}

#endif /* PYPROXY_SOCK_H */
