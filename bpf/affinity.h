/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Session affinity: the backend that a client of a service had last (parity A6). */
#ifndef PYPROXY_AFFINITY_H
#define PYPROXY_AFFINITY_H

#include "clock.h"
#include "frontend.h"

/* Return what a whole value has in `check` (rule 7). */
static __always_inline __u32 affinity_check(const struct affinity *whole,
					    const struct affinity_key *key)
{
	return endpoint_fold(&whole->backend) ^ whole->seen ^ (key->service << 1) ^ key->netns[0] ^
	       key->netns[1] ^ (addr_fold(&key->addr) << 2) ^ 0x5eed5eed;
}

/* Read the backend that a client had within the last `seconds`. Return false if there is none. */
static __always_inline bool affinity_read(struct affinity_key *key, __u32 seconds,
					  struct endpoint *backend)
{
	__u32 timeout = (__u64)seconds * 1000000000 >> TICK_SHIFT;
	struct affinity *found = affinity.lookup(key);
	struct affinity copy;

	if (!found)
		return false;
	copy = *found;
	*backend = copy.backend;
	return copy.check == affinity_check(&copy, key) && now_ticks() - copy.seen <= timeout;
}

/* Note the backend that a client has now; each new connection begins its time anew (A6.2). */
static __always_inline void affinity_write(struct affinity_key *key, const struct endpoint *backend)
{
	struct affinity made = { .backend = *backend, .seen = now_ticks() };

	made.check = affinity_check(&made, key);
	affinity.update(key, &made);
}

#endif /* PYPROXY_AFFINITY_H */
