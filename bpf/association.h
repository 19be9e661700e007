/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a socket remembers: which service it asked for, and which backend answers for it. */
#ifndef PYPROXY_ASSOCIATION_H
#define PYPROXY_ASSOCIATION_H

#include "balance.h"
#include "marks.h"

#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SK_STORAGE_CREATE 1 /* BPF_SK_STORAGE_GET_F_CREATE */

/* Return the association of service and what was picked for it. */
static __always_inline struct association association_of(const struct endpoint *service,
							 const struct pick *picked)
{
	struct association made = {
		.service = *service,
		.backend = picked->backend,
		.service_id = picked->target.service,
		.generation = picked->generation,
	};

	return made;
}

/* Forget the socket's first association if it is with backend. */
static __always_inline void first_forget(struct sock_nat *nat, const struct endpoint *backend)
{
	if (endpoint_equal(&nat->first.backend, backend))
		nat->first.service_id = 0;
}

/* Return what a whole association in udp_backends has in `check` (rule 7). */
static __always_inline __u32 association_check(const struct association *whole, __u64 cookie)
{
	return endpoint_fold(&whole->service) ^ (endpoint_fold(&whole->backend) << 1) ^
	       whole->service_id ^ whole->generation ^ (__u32)cookie ^ 0x5eed5eed;
}

/* Return what a whole value of udp_services has in `check` (rule 7). */
static __always_inline __u32 udp_service_check(const struct endpoint *service,
					       const struct endpoint *backend, __u64 cookie)
{
	return endpoint_fold(service) ^ (endpoint_fold(backend) << 1) ^ (__u32)cookie ^ 0x5eed5eed;
}

/* Return a socket cookie as it stands in keys. */
static __always_inline struct cookie cookie_of(__u64 cookie)
{
	struct cookie words = { .word = { (__u32)cookie, cookie >> 32 } };

	return words;
}

/* Return what a whole value of `connected` has in `check` (rule 7). */
static __always_inline __u32 connected_check(const struct connected *whole, __u64 cookie)
{
	return endpoint_fold(&whole->service) ^ (endpoint_fold(&whole->backend) << 1) ^
	       (__u32)cookie ^ 0x5eed5eed;
}

/*
 * Return the MPTCP socket that a socket is a subflow of, NULL if it is none. The application
 * holds that one; the subflow connects for it and ends without sock_release.
 */
static __always_inline void *mptcp_of(struct bpf_sock_addr *ctx)
{
#if HAVE_MPTCP
	if (ctx->type == SOCK_STREAM && ctx->sk)
		return bpf_skc_to_mptcp_sock(ctx->sk);
#endif /* HAVE_MPTCP */
	return NULL;
}

/* Remember in a socket's storage what it asked for; out of memory it shows its backend. */
static __always_inline void stored_write(struct sock_nat *nat, const struct endpoint *service,
					 const struct pick *picked)
{
	if (nat)
		nat->first = association_of(service, picked);
}

/* Return what a connected socket of a type asked for, NULL if nothing. */
static __always_inline struct connected *connected_find(__u32 type, struct cookie *key)
{
	if (type == SOCK_STREAM)
		return connected.lookup(key);
	return connected_udp.lookup(key);
}

/* Remember it. Return whether there was room. */
static __always_inline bool connected_insert(__u32 type, struct cookie *key, struct connected *made)
{
	if (type == SOCK_STREAM)
		return !connected.update(key, made);
	return !connected_udp.update(key, made);
}

/* Forget it, if there is something. */
static __always_inline void connected_delete(__u32 type, struct cookie *key)
{
	if (type == SOCK_STREAM)
		connected.delete(key);
	else
		connected_udp.delete(key);
}

/* Remember what a connected socket asked for: in its storage if the map is full. */
static __always_inline void connected_write(struct bpf_sock_addr *ctx,
					    const struct endpoint *service,
					    const struct pick *picked)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct cookie key = cookie_of(cookie);
	struct connected made = {
		.family = FAMILY_NUMBER,
		.mark = endpoint_hash(&picked->backend),
		.service = *service,
		.backend = picked->backend,
	};
	void *mptcp = mptcp_of(ctx);

	made.check = connected_check(&made, cookie);
	if (mptcp)
		stored_write(sock_nat.sk_storage_get(mptcp, 0, SK_STORAGE_CREATE), service, picked);
	else if (connected_insert(ctx->type, &key, &made))
		mark_socket(made.mark);
	else
		stored_write(sock_nat.sk_storage_get(ctx->sk, 0, SK_STORAGE_CREATE), service,
			     picked);
}

/*
 * Replace peer, the backend of a connected socket, by the service that it asked for.
 * Return false if it asked for none.
 */
static __always_inline bool connected_service(__u32 type, __u64 cookie, struct endpoint *peer)
{
	struct cookie key = cookie_of(cookie);
	struct connected *found = connected_find(type, &key);
	struct connected copy;

	if (!found)
		return false;
	copy = *found;
	if (copy.family != FAMILY_NUMBER || copy.check != connected_check(&copy, cookie) ||
	    !endpoint_equal(&copy.backend, peer))
		return false;
	*peer = copy.service;
	return true;
}

/*
 * Copy the backend of the service that a socket is connected to. Return false if it is
 * connected to another service or to none.
 */
static __always_inline bool connected_backend(struct bpf_sock_addr *ctx, struct sock_nat *nat,
					      const struct endpoint *service,
					      struct endpoint *backend)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct cookie key = cookie_of(cookie);
	struct connected *found = connected_find(ctx->type, &key);
	struct connected copy;

	if (found) {
		copy = *found;
		*backend = copy.backend;
		return copy.family == FAMILY_NUMBER &&
		       copy.check == connected_check(&copy, cookie) &&
		       endpoint_equal(&copy.service, service);
	}
	if (!nat || !nat->first.service_id || !endpoint_equal(&nat->first.service, service))
		return false;
	*backend = nat->first.backend;
	return true;
}

/*
 * Replace peer by the service that stands first in the socket's storage, if peer is its
 * backend. Return false if it is not.
 */
static __always_inline bool first_service(struct sock_nat *nat, struct endpoint *peer)
{
	if (!nat || !nat->first.service_id || !endpoint_equal(&nat->first.backend, peer))
		return false;
	*peer = nat->first.service;
	return true;
}

/*
 * Return whether a TCP socket has never been connected: tcp_disconnect() leaves the address
 * of the former peer in place. UDP sockets lose it, so nothing is known of them.
 */
static __always_inline bool is_fresh(const struct bpf_sock_addr *ctx)
{
	const struct bpf_sock *sk = ctx->sk;

	return ctx->type == SOCK_STREAM && sk &&
	       !(sk->dst_ip4 | sk->dst_ip6[0] | sk->dst_ip6[1] | sk->dst_ip6[2] | sk->dst_ip6[3]);
}

/*
 * Forget all that a socket asked for: it connects to no service (rule 19). In the common case,
 * a TCP socket's first connection, that costs nothing.
 */
static __always_inline void connected_forget(struct bpf_sock_addr *ctx)
{
	void *mptcp = mptcp_of(ctx);
	struct cookie key;

	if (mptcp)
		sock_nat.sk_storage_delete(mptcp);
	if (is_fresh(ctx))
		return;
	key = cookie_of(bpf_get_socket_cookie(ctx));
	if (connected_find(ctx->type, &key))
		connected_delete(ctx->type, &key);
	sock_nat.sk_storage_delete(ctx->sk);
}

/*
 * Copy a further association of a socket, with the service of this id by one of its addresses, to
 * copy. Return false if there is none.
 */
static __always_inline bool more_read(__u64 cookie, const struct endpoint *asked, __u32 service,
				      struct association *copy)
{
	struct udp_backend_key key = { .cookie = cookie_of(cookie), .service = *asked };
	struct association *found = udp_backends.lookup(&key);

	if (!found)
		return false;
	*copy = *found;
	return copy->service_id == service && copy->check == association_check(copy, cookie);
}

/* Remember a further association of a socket, for its sends and for its receives. */
static __always_inline void more_write(__u64 cookie, struct association *wanted)
{
	struct udp_backend_key key = { .cookie = cookie_of(cookie), .service = wanted->service };
	struct udp_service_key back = { .cookie = cookie_of(cookie), .backend = wanted->backend };
	struct udp_service service = { .service = wanted->service };

	wanted->check = association_check(wanted, cookie);
	service.check = udp_service_check(&wanted->service, &wanted->backend, cookie);
	udp_backends.update(&key, wanted);
	udp_services.update(&back, &service);
}

/* Copy the service that backend answers for on this socket. Return false if there is none. */
static __always_inline bool more_service(__u64 cookie, const struct endpoint *backend,
					 struct endpoint *service)
{
	struct udp_service_key key = { .cookie = cookie_of(cookie), .backend = *backend };
	struct udp_service *found = udp_services.lookup(&key);
	struct udp_service copy;

	if (!found)
		return false;
	copy = *found;
	if (copy.check != udp_service_check(&copy.service, backend, cookie))
		return false;
	*service = copy.service;
	return true;
}

/* Forget that backend answers for a service on this socket. */
static __always_inline void more_forget(__u64 cookie, const struct endpoint *backend)
{
	struct udp_service_key key = { .cookie = cookie_of(cookie), .backend = *backend };

	udp_services.delete(&key);
}

#endif /* PYPROXY_ASSOCIATION_H */
