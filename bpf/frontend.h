/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which service an address and port belong to, and why. */
#ifndef PYPROXY_FRONTEND_H
#define PYPROXY_FRONTEND_H

#include "maps.h"

/* How often a reader starts again when what it reads changed under its eyes (rule 7). */
#define READ_TRIES 3

/* What a new connection is for. */
struct target {
	__u32 service; /* 0: nothing */
	__u8 kind; /* enum frontend_kind */
	__u8 filtered; /* only for some clients: is_kept_out() */
	__u8 unserved; /* a NodePort where it is refused at most (parity A7.6) */
	__u8 bindable; /* a NodePort that is its pods' port, too */
};

/* Return whether two ends are the same. */
static __always_inline bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
	return addr_equal(&a->addr, &b->addr) && a->port == b->port;
}

/* Return all words of an endpoint XORed. */
static __always_inline __u32 endpoint_fold(const struct endpoint *end)
{
	return addr_fold(&end->addr) ^ end->port;
}

/*
 * Copy what dst leads to for protocol proto. Return false if it is no frontend. A value that
 * was reused for another key while we looked is looked up again (rule 7).
 */
static __always_inline bool frontend_find(const struct endpoint *dst, __u8 proto,
					  struct frontend *copy)
{
	struct frontend_key key = { .addr = dst->addr, .port = dst->port, .proto = proto };

#pragma unroll
	for (int i = 0; i < READ_TRIES; i++) {
		struct frontend *found = frontends.lookup(&key);

		if (!found)
			return false;
		*copy = *found;
		if (copy->addr_fold == addr_fold(&key.addr) && copy->port == key.port &&
		    copy->proto == key.proto)
			return true;
	}
	return false;
}

/* Return whether a port may be a NodePort. */
static __always_inline bool is_node_port(__u32 port)
{
	__u64 range = setting(SETTING_NODE_PORTS);

	return port - (__u32)range < (__u32)(range >> 32);
}

/* Return whether a port is in ip_local_reserved_ports. */
static __always_inline bool is_reserved(__u16 port)
{
	__u32 index = port >> 6;
	const __u64 *bits = kept_ports.lookup(&index);

	return bits && *bits >> (port & 63) & 1;
}

/* Return enum node_address_flag of an address; -1 if it is none of this node's. */
static __always_inline __s32 node_address_find(const struct addr *addr)
{
	struct addr key = *addr;
	bool is_other = false;
	__u32 *flags;

	if (addr_is_loopback(addr))
		is_other = addr_loopback(&key);
	flags = node_addresses.lookup(&key);
	if (!flags)
		return -1;
	return is_other && !(*flags & NODE_ADDRESS_NETWORK) ? 0 : *flags;
}

/*
 * The same, also of an address that is the node's by a route to a whole network (`ip route add
 * local`): as `addrtype LOCAL` and `fib daddr type local` have it.
 */
static __always_inline __s32 local_address_find(const struct addr *addr)
{
	struct cidr_key key = { .length = 32 * ADDR_WORDS, .addr = *addr };
	__s32 found = node_address_find(addr);
	const __u32 *flags;

	if (found >= 0)
		return found;
	flags = node_networks.lookup(&key);
	return flags ? *flags : -1;
}

/* Return what a NodePort that is served on dst leads to. */
static __always_inline struct target node_port_match(const struct endpoint *dst, __u8 proto)
{
	struct endpoint any = { .port = dst->port };
	struct target target = {};
	struct frontend found;
	__s32 flags;

	if (!is_node_port(dst->port))
		return target;
	flags = local_address_find(&dst->addr);
	if (flags < 0 || !frontend_find(&any, proto, &found))
		return target;
	target.unserved = !(flags & NODE_ADDRESS_PORTS);
	/* nftables mode leaves the port alone there */
	if (target.unserved && setting(SETTING_POLICY) & POLICY_NFTABLES)
		return target;
	target.service = found.service;
	target.kind = found.kind;
	target.bindable = found.flags & FRONTEND_BINDABLE;
	return target;
}

/* Return what dst leads to: an address of a service comes before a NodePort (parity A2.6). */
static __always_inline struct target frontend_match(const struct endpoint *dst, __u8 proto)
{
	struct target target = {};
	struct frontend found;

	if (!frontend_find(dst, proto, &found))
		return node_port_match(dst, proto);
	/* a NodePort's frontend has no address; neither has this packet */
	if (found.kind == KIND_NODE_PORT)
		return target;
	/* somebody on this node answers for the service, NodeLocal DNSCache mostly (rule 21) */
	if (found.kind == KIND_CLUSTER_IP && node_address_find(&dst->addr) >= 0)
		return target;
	target.service = found.service;
	target.kind = found.kind;
	target.filtered = found.flags & FRONTEND_FILTERED;
	return target;
}

/* Return whether a service's loadBalancerSourceRanges keep a client out (parity A10.1). */
static __always_inline bool is_kept_out(__u32 service, const struct addr *client)
{
	struct source_key key = { .length = 32 + 32 * ADDR_WORDS,
				  .service = service,
				  .addr = *client };

	return !sources.lookup(&key);
}

#endif /* PYPROXY_FRONTEND_H */
