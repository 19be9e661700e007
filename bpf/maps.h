/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map: who writes it, who reads it, what it holds. The loader (pyproxy/kernel/load.py)
 * pins them by these names, so that they outlive the agent, and gives a compiled object what is
 * pinned already.
 * README.md draws how they hang together.
 */
#ifndef PYPROXY_MAPS_H
#define PYPROXY_MAPS_H

#include "shared.h"

/* The agent writes, the programs read: is this address and port a service's? */
BPF_F_TABLE("hash", struct frontend_key, struct frontend, frontends, MAX_FRONTENDS,
	    BPF_F_NO_PREALLOC);

/* The agent writes, the programs read: where the service's header stands now. */
BPF_F_TABLE("array", __u32, struct service, services, MAX_SERVICES, BPF_F_MMAPABLE);

/* The agent writes, the programs read: headers and backends; never changed while published. */
BPF_F_TABLE("array", __u32, struct slot, slots, MAX_SLOTS, BPF_F_MMAPABLE);

/* The agent writes, the programs read: may a UDP socket stay with its backend? */
BPF_F_TABLE("hash", struct member_key, struct member, members, MAX_MEMBERS, BPF_F_NO_PREALLOC);

/* The agent writes and reads (adoption, status): the programs never look. */
BPF_F_TABLE("hash", __u32, struct service_name, service_names, MAX_SERVICES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", __u32, struct node_name, node_names, MAX_NODES, BPF_F_NO_PREALLOC);

/*
 * The programs write and read: what an unconnected UDP socket asked for, and what a connected
 * one did while its map is full. Ends with the socket.
 */
BPF_SK_STORAGE(sock_nat, struct sock_nat);

/* The programs write and read: the second and further services of an unconnected UDP socket. */
BPF_F_TABLE("lru_hash", struct udp_backend_key, struct association, udp_backends, MAX_UDP, 0);
BPF_F_TABLE("lru_hash", struct udp_service_key, struct udp_service, udp_services, MAX_UDP, 0);

/* The programs write and read, the agent sweeps: struct mark says what for. */
BPF_F_TABLE("array", __u32, struct mark, marks, MARKS, BPF_F_MMAPABLE);

/*
 * The programs write and read, the agent sweeps: the connections of the packet path, and what
 * leads to them. Pinned apart, under the version of struct connection (rule 23).
 */
BPF_F_TABLE("hash", struct nat_key, struct nat_entry, nat, 4 * MAX_CONNECTIONS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", __u32, struct connection, connections, MAX_CONNECTIONS, BPF_F_MMAPABLE);

/* The agent writes, the programs read: enum strictness. */
BPF_F_TABLE("lpm_trie", struct cidr_key, __u32, cluster_cidrs, MAX_FRONTENDS, BPF_F_NO_PREALLOC);

/* The programs write and read: sessionAffinity. */
BPF_F_TABLE("lru_hash", struct affinity_key, struct affinity, affinity, MAX_AFFINITY, 0);

/* The programs write and read: the ports of packets that come in fragments. */
BPF_F_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, MAX_FRAGMENTS, 0);

/* The agent writes, the programs read: loadBalancerSourceRanges. */
BPF_F_TABLE("lpm_trie", struct source_key, __u32, sources, MAX_SOURCES, BPF_F_NO_PREALLOC);

/* The agent writes, the programs read: which addresses are the node's, enum node_address_flag. */
BPF_F_TABLE("hash", struct addr, __u32, node_addresses, MAX_NODE_ADDRESSES, BPF_F_NO_PREALLOC);

/* The agent writes, the programs read: networks that are the node's as a whole, with the same flags. */
BPF_F_TABLE("lpm_trie", struct cidr_key, __u32, node_networks, MAX_NODE_ADDRESSES,
	    BPF_F_NO_PREALLOC);

/* The programs write and read: where connections' packets go that skip the stack. */
BPF_F_TABLE("array", __u32, struct way, ways, WAYS, BPF_F_MMAPABLE);

/* The agent writes, the programs read. */
BPF_F_TABLE("hash", __u32, struct device, devices, MAX_DEVICES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct hop_key, struct addr, hop_sources, MAX_HOPS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct cidr_key, __u32, local_cidrs, MAX_CIDRS, BPF_F_NO_PREALLOC);

/*
 * Stages of the packet path that most packets never reach, entered by tail calls. Pinned
 * beside the programs that it holds: another build has its own.
 */
BPF_PROG_ARRAY(stages, STAGES);

/* The other family's programs: one program a device and side is cheaper than two. */
BPF_PROG_ARRAY(other_family, ENTRIES);

/* Where a CPU looks for the next record to take. */
BPF_PERCPU_ARRAY(hand, __u32, 1);

/* Where a refusal is put together: larger than the stack. */
BPF_PERCPU_ARRAY(scratch, struct scratch, 1);

/* The programs write, metrics read: of each service. CPUs share a shard where there are many. */
BPF_F_TABLE("array", __u32, struct begun, begun, MAX_SERVICES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct traffic, traffic, MAX_SERVICES *TRAFFIC_SHARDS, BPF_F_MMAPABLE);

/* The programs write, status reads: enum counter. */
BPF_F_TABLE("percpu_array", __u32, __u64, counters, COUNTER_MAX, 0);

/* The programs write, status reads: enum moment. */
BPF_F_TABLE("array", __u32, __u64, moments, MOMENT_MAX, BPF_F_MMAPABLE);

/* The agent writes, the programs read: enum setting. */
BPF_F_TABLE("array", __u32, __u64, settings, SETTING_MAX, BPF_F_MMAPABLE);

/* Return a setting of the agent's. */
static __always_inline __u64 setting(__u32 index)
{
	__u64 *value = settings.lookup(&index);

	return value ? *value : 0;
}

/* Return a setting that changes with something else, as records have it: its lower half. */
static __always_inline __u16 epoch(__u32 index)
{
	return setting(index);
}

/* Return what is known of a device, NULL if nothing is. */
static __always_inline const struct device *device_of(__u32 ifindex)
{
	return devices.lookup(&ifindex);
}

/* Return enum device_flag of a device. */
static __always_inline __u32 device_flags(__u32 ifindex)
{
	const struct device *device = device_of(ifindex);

	return device ? device->flags : 0;
}

/* Count one event of enum counter. */
static __always_inline void count(__u32 index)
{
	__u64 *value = counters.lookup(&index);

	if (value)
		*value += 1;
}

#endif /* PYPROXY_MAPS_H */
