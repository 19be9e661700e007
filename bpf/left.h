/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connected UDP sockets whose backend has left (rule 20). Nothing is asked when they send, so that
 * their datagrams still bear its address. A device that leads to a pod sees whose socket sent them:
 * what crosses from one network namespace to another keeps it (kernel commit 9c4c325252c5).
 */
#ifndef PYPROXY_LEFT_H
#define PYPROXY_LEFT_H

#include "association.h"
#include "packet.h"

/* Replace end, where a packet goes to, by the service that its socket asked for, if any. */
static __always_inline bool left_service(struct __sk_buff *skb, struct endpoint *end)
{
	struct bpf_sock *sk;

	if (connected_service(SOCK_DGRAM, bpf_get_socket_cookie(skb), end))
		return true;
	sk = skb->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	return sk && first_service(sock_nat.sk_storage_get(sk, 0, 0), end);
}

/* Return what the socket asked for that sends a datagram to the backend that it got for it. */
static __always_inline struct target left_match(struct __sk_buff *skb, const struct packet *packet)
{
	struct endpoint end = packet->dst;
	struct target none = {};

	if (packet->proto != IPPROTO_UDP || !left_service(skb, &end))
		return none;
	return frontend_match(&end, IPPROTO_UDP);
}

#endif /* PYPROXY_LEFT_H */
