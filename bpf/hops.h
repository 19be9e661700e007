/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which address of this node goes with what leaves it. */
#ifndef PYPROXY_HOPS_H
#define PYPROXY_HOPS_H

#include "addr.h"
#include "maps.h"

#define NODE 0 /* in place of a device: the one by which a route leads there */

/*
 * Copy the address that the node has on the way to `dst` by a device: one of that one's, else the
 * node's usual one. Return false if it has none.
 */
static __always_inline bool source_address(__u32 ifindex, const struct addr *dst,
					   struct addr *address)
{
	struct device *device = devices.lookup(&ifindex);
	struct hop_key key = { .length = 32 + 32 * ADDR_WORDS, .ifindex = ifindex, .addr = *dst };
	const struct addr *found = hop_sources.lookup(&key);
	__u32 node = NODE;

	if (found) {
		*address = *found;
		return true;
	}
	if (!device || !addr_fold(&device->source))
		device = devices.lookup(&node);
	if (!device || !addr_fold(&device->source))
		return false;
	*address = device->source;
	return true;
}

#endif /* PYPROXY_HOPS_H */
