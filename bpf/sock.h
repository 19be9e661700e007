/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sockets path, blind to the family and to how an address stands in the context:
 * sock.c and mapped.c hand the address in and store what comes back.
 */
#ifndef PYPROXY_SOCK_H
#define PYPROXY_SOCK_H

#include "association.h"
#include "errors.h"
#include "family.h"
#include "hops.h"
#include "strict.h"
#include "traffic.h"

#define IPPROTO_MPTCP 262 /* RFC 8684: to everybody else it is TCP */

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
 * (before 5.18) let the address pass instead, which connect_address() has changed.
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

/*
 * Return whether a socket connects to another address than it asked for, which peer has then. Where
 * no hook can give an error, a refused one connects to the loopback address's port 0, at which
 * nothing can listen: the kernel itself refuses that at once.
 */
static __always_inline bool connect_address(enum verdict verdict, struct endpoint *peer)
{
#if !HAVE_SET_RETVAL
	if (verdict == VERDICT_REFUSE) {
		addr_loopback(&peer->addr);
		peer->port = 0;
		return true;
	}
#endif /* HAVE_SET_RETVAL */
	return verdict == VERDICT_FORWARD;
}

/* Return whether the packets of the socket are translated, not the socket (SETTING_HOST_NETNS). */
static __always_inline bool is_left_to_packets(struct bpf_sock_addr *ctx)
{
	__u64 host = setting(SETTING_HOST_NETNS);

	return host && bpf_get_netns_cookie(ctx) != host;
}

/*
 * Return whose a socket is, by the cookie of its network namespace. It may not have an address
 * yet, so that all in other ones are pods' where pods are recognised at all.
 */
static __always_inline enum client sock_client(__u64 netns)
{
	if (netns == setting(SETTING_NETNS))
		return CLIENT_NODE;
	return setting(SETTING_DETECTOR) ? CLIENT_POD : CLIENT_OTHER;
}

/*
 * Return whether packets say better than their socket who asks for a filtered address: a pod's
 * socket has no address yet, and what a process of the node may not ask is dropped where it would
 * leave. That has the address that it is bound to, or that the kernel chooses for it.
 */
static __always_inline bool is_left_to_filter(struct bpf_sock_addr *ctx, const struct pick *picked,
					      const struct addr *asked)
{
	struct addr source, none = {};

	/* most are not: what follows is for few connections */
	if (!picked->target.filtered)
		return false;
	if (picked->client != CLIENT_NODE)
		return true;
	source = bound_address(ctx->sk);
	if (addr_equal(&source, &none)) {
		if (local_address_find(asked) >= 0)
			source = *asked;
		else if (!source_address(NODE, asked, &source))
			return true;
	}
	return is_kept_out(picked->target.service, &source);
}

/* Say what a socket asks for. Return false if that is to be reached as it is. */
static __always_inline bool sock_target(struct bpf_sock_addr *ctx, struct endpoint *peer,
					__u8 proto, struct pick *picked)
{
	struct endpoint asked = *peer;
	struct addr none = {};

	if (!proto || is_left_to_packets(ctx))
		return false;
	/* to no address is to loopback (tcp_v4_connect, tcp_v6_connect) */
	if (addr_equal(&asked.addr, &none))
		addr_loopback(&asked.addr);
	picked->target = frontend_match(&asked, proto);
	if (!picked->target.service)
		return false;
	/* a ClusterIP's policy is the same for all (parity A4.4) */
	if (picked->target.kind == KIND_CLUSTER_IP)
		return true;
	picked->client = sock_client(bpf_get_netns_cookie(ctx));
	/* a pod has loopback addresses of its own */
	if (picked->client != CLIENT_NODE && addr_is_loopback(&asked.addr))
		return false;
	*peer = asked;
	return !is_left_to_filter(ctx, picked, &asked.addr);
}

/*
 * Return whether kube-proxy's rules refuse and drop what a socket sends there: in iptables mode
 * not what a process of the node sends to an external address elsewhere (parity A8.5).
 */
static __always_inline bool is_in_force(const struct pick *picked, const struct endpoint *peer)
{
	return picked->target.kind == KIND_CLUSTER_IP || picked->client != CLIENT_NODE ||
	       setting(SETTING_POLICY) & POLICY_NFTABLES || local_address_find(&peer->addr) >= 0;
}

/*
 * Return whether packets say better than their socket whose the client is: what a Local policy
 * keeps from others it does not keep from pods, but a socket of another network namespace has no
 * address yet by which the local detector would know a pod (parity A9.6).
 */
static __always_inline bool is_left_to_detector(const struct pick *picked)
{
	return picked->client == CLIENT_POD && picked->target.kind != KIND_CLUSTER_IP &&
	       picked->policies & SERVICE_EXTERNAL_LOCAL;
}

/*
 * Return whether datagrams of a pod's connected socket are left to its packets: to other pods on
 * its bridge they pass the node's IP layer by, where nothing could tell that a backend has left. It
 * is so only while an agent says so, who covers new pods, and before a backend is drawn, so that
 * all of them are drawn alike.
 */
static __always_inline bool is_left_to_bridge(struct bpf_sock_addr *ctx, const struct pick *picked)
{
	struct backend_set set;
	__u32 until;

	if (sock_proto(ctx) != IPPROTO_UDP)
		return false;
	until = setting(SETTING_BRIDGED_UNTIL);
	if (!until || (__s32)(until - now_ticks()) < 0 ||
	    bpf_get_netns_cookie(ctx) == setting(SETTING_NETNS))
		return false;
	return set_read(picked, &set) && set.flags & SERVICE_HAS_LOCAL;
}

/* Pick a backend for what a socket sends to peer. */
static __always_inline enum verdict sock_pick(struct bpf_sock_addr *ctx,
					      const struct endpoint *peer, struct pick *picked)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct affinity_key who = {
		.service = picked->target.service,
		.netns = { netns, netns >> 32 },
	};
	enum verdict verdict = backend_pick(picked, &who);

	if (verdict == VERDICT_FORWARD && is_left_to_detector(picked))
		return VERDICT_PASS;
	if (verdict == VERDICT_FORWARD) {
		begun_by_socket(picked->target.service);
		return VERDICT_FORWARD;
	}
	return is_in_force(picked, peer) ? verdict : VERDICT_PASS;
}

/* Return what becomes of what a socket sends to an address that leads to no service. */
static __always_inline enum verdict
sock_strict(struct bpf_sock_addr *ctx, const struct pick *picked, const struct endpoint *peer)
{
	enum verdict verdict;

	if (picked->target.service || !is_strict_prefix(&peer->addr) || !sock_proto(ctx) ||
	    is_left_to_packets(ctx))
		return VERDICT_PASS;
	verdict = strict_verdict(&peer->addr);
	if (verdict == VERDICT_DROP)
		count(COUNTER_LEFT_TO_DROP);
	return verdict;
}

/* Decide where a socket that connects to *peer really goes; write it to *peer. */
static __always_inline enum verdict sock_connect(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	struct pick picked = {};
	enum verdict verdict;

	if (!sock_target(ctx, peer, sock_proto(ctx), &picked)) {
		connected_forget(ctx);
		return sock_strict(ctx, &picked, peer);
	}
	verdict = is_left_to_bridge(ctx, &picked) ? VERDICT_PASS : sock_pick(ctx, peer, &picked);
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
static __always_inline enum verdict udp_backend(struct bpf_sock_addr *ctx, struct pick *picked,
						const struct endpoint *peer, bool has_old,
						struct association *kept)
{
	__u32 service = picked->target.service;
	enum verdict verdict;

	if (has_old && backend_is_member(service, &kept->backend, &kept->generation))
		return VERDICT_FORWARD;
	verdict = sock_pick(ctx, peer, picked);
	if (verdict == VERDICT_FORWARD)
		*kept = association_of(peer, picked);
	return verdict;
}

/* Return whether the socket is connected: UDP sockets use TCP's state for that. */
static __always_inline bool is_connected(const struct bpf_sock_addr *ctx)
{
	return ctx->sk && ctx->sk->state == BPF_TCP_ESTABLISHED;
}

/* Return whether a socket is connected to the very address that it sends to. */
static __always_inline bool is_to_its_peer(const struct bpf_sock_addr *ctx,
					   const struct endpoint *peer)
{
	struct addr addr = connected_address(ctx->sk);

	return is_connected(ctx) && addr_equal(&addr, &peer->addr);
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
						   struct pick *picked, struct endpoint *peer)
{
	struct association kept = nat->first;
	bool has_kept = kept.service_id == picked->target.service;
	enum verdict verdict = udp_backend(ctx, picked, peer, has_kept, &kept);

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
						  struct pick *picked, struct endpoint *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct association kept = {};
	bool has_kept = more_read(cookie, peer, picked->target.service, &kept);
	enum verdict verdict = udp_backend(ctx, picked, peer, has_kept, &kept);

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
	__u8 proto = sock_proto(ctx) == IPPROTO_UDP ? IPPROTO_UDP : 0;
	struct pick picked = {};
	struct endpoint backend;
	enum verdict verdict;
	struct sock_nat *nat;

	if (!sock_target(ctx, peer, proto, &picked)) {
		udp_direct(ctx, peer);
		return sock_strict(ctx, &picked, peer);
	}
	/* it takes answers from the peer it is connected to only, so that one stays */
	if (is_connected(ctx) &&
	    connected_backend(ctx, sock_nat.sk_storage_get(ctx->sk, 0, 0), peer, &backend)) {
		*peer = backend;
		count(COUNTER_SENDMSG);
		return VERDICT_FORWARD;
	}
	/* what connect() left alone comes here by an IPv6 socket with an IPv4-mapped peer */
	if (is_to_its_peer(ctx, peer))
		return VERDICT_PASS;
	nat = sock_nat.sk_storage_get(ctx->sk, 0, SK_STORAGE_CREATE);
	if (!nat)
		return VERDICT_REFUSE;
	if (!nat->first.service_id || endpoint_equal(&nat->first.service, peer))
		verdict = udp_send_first(ctx, nat, &picked, peer);
	else
		verdict = udp_send_more(ctx, nat, &picked, peer);
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
	return is_connected(ctx) && connected_service(ctx->type, bpf_get_socket_cookie(ctx), peer);
}

/* Replace the peer of a connected socket by the service it asked for, if any. */
static __always_inline bool sock_getpeername(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	return connected_service(ctx->type, bpf_get_socket_cookie(ctx), peer) ||
	       first_service(sock_nat.sk_storage_get(ctx->sk, 0, 0), peer);
}

#endif /* PYPROXY_SOCK_H */
