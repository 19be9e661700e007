/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each service has had so far: connections that began, packets and bytes of the packet path. */
#ifndef PYPROXY_TRAFFIC_H
#define PYPROXY_TRAFFIC_H

#include "maps.h"

/* Add to what several CPUs may add to; a CPU that has a shard of its own need not lock a bus. */
static __always_inline void traffic_add(__u64 *to, __u64 value)
{
	if (TRAFFIC_CPUS > TRAFFIC_SHARDS)
		__sync_fetch_and_add(to, value);
	else
		*to += value;
}

/*
 * Count a translated packet, whose IP header is at offset `at`, for its connection's service: once,
 * requests as they come in and answers as they leave. What GRO has put together is one.
 */
static __always_inline void traffic_note(const struct __sk_buff *skb, __u32 service, __u32 at)
{
	__u32 shard = bpf_get_smp_processor_id() & (TRAFFIC_SHARDS - 1);
	__u32 index = shard * MAX_SERVICES + service;
	struct traffic *of = traffic.lookup(&index);

	if (!of)
		return;
	traffic_add(&of->packets, 1);
	traffic_add(&of->bytes, skb->len - at);
}

/* Count a connection of the packet path for its service. */
static __always_inline void begun_by_packet(__u32 service)
{
	struct begun *of = begun.lookup(&service);

	if (of)
		__sync_fetch_and_add(&of->packets, 1);
}

/* The same for a socket that was given a backend: connected, or an unconnected one's datagrams. */
static __always_inline void begun_by_socket(__u32 service)
{
	struct begun *of = begun.lookup(&service);

	if (of)
		__sync_fetch_and_add(&of->sockets, 1);
}

#endif /* PYPROXY_TRAFFIC_H */
