/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every packet passes on every device, so that it is short: is it worth a look? Most
 * packets are no service's.
 */
#ifndef PYPROXY_ENTRY_H
#define PYPROXY_ENTRY_H

#include "packet.h"
#include "strict.h"

/* A packet's ends as they lie in it, if it is of TCP or UDP; nothing is checked. */
struct glance {
	struct ip_header ip;
	__be16 src_port;
	__be16 dst_port;
};

/* Return the ends of the packet at `at`, NULL if they are not in one piece or not plain. */
static __always_inline const struct glance *glance_at(const struct __sk_buff *skb, __u32 at)
{
	const struct glance *glance = (void *)(long)skb->data + at;

	if ((void *)(glance + 1) > (void *)(long)skb->data_end || !is_plain(&glance->ip))
		return NULL;
	return glance;
}

/* Return an address and port as they lie in a packet. */
static __always_inline struct endpoint end_at(const struct addr *addr, __be16 port)
{
	struct endpoint end = { .addr = *addr, .port = host16(port) };

	return end;
}

/* Return whether a packet that comes in may be for a frontend or a connection, or about one. */
static __always_inline bool ingress_is_worth(const struct glance *glance)
{
	struct endpoint dst = end_at(&glance->ip.dst, glance->dst_port);

	return is_marked(&dst) || is_strict_prefix(&dst.addr) ||
	       glance->ip.proto == IPPROTO_ICMP_FAMILY;
}

/* Return whether a packet that leaves may be a connection's, leak, or be about one. */
static __always_inline bool egress_is_worth(const struct glance *glance)
{
	struct endpoint src = end_at(&glance->ip.src, glance->src_port);

	return is_marked(&src) || is_frontend_prefix(&glance->ip.dst) ||
	       glance->ip.proto == IPPROTO_ICMP_FAMILY;
}

#endif /* PYPROXY_ENTRY_H */
