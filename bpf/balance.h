/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which service an address belongs to, and which of its backends a new connection gets. */
#ifndef PYPROXY_BALANCE_H
#define PYPROXY_BALANCE_H

#include "maps.h"

/* How often a reader starts again when a service was published anew under its eyes. */
#define PICK_TRIES 3

enum verdict {
	VERDICT_PASS, /* not a service's: leave it alone */
	VERDICT_FORWARD, /* to the backend that was picked */
	VERDICT_REFUSE, /* no endpoints anywhere (parity A8.1) */
	VERDICT_DROP, /* a Local policy and no local endpoint (A8.2) */
};

/* What was picked, and for which state of which service. */
struct pick {
	struct endpoint backend;
	__u32 flags; /* enum backend_flag */
	__u32 service;
	__u32 generation;
};

/* The set of backends a connection may use, as the header has it now. */
struct backend_set {
	__u32 first; /* slot of the first usable backend */
	__u32 count;
	__u32 generation;
	__u32 flags;
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
	for (int i = 0; i < PICK_TRIES; i++) {
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

/* Return the id of the service that dst belongs to for protocol proto, 0 if none. */
static __always_inline __u32 frontend_lookup(const struct endpoint *dst, __u8 proto)
{
	struct frontend found;

	return frontend_find(dst, proto, &found) ? found.service : 0;
}

/* Return why dst belongs to a service, 0 if it belongs to none. */
static __always_inline __u8 frontend_kind(const struct endpoint *dst, __u8 proto)
{
	struct frontend found;

	return frontend_find(dst, proto, &found) ? found.kind : 0;
}

/*
 * Read where service stands into first and generation by one 8-byte load.
 * Return false if there is no such service.
 */
static __always_inline bool service_read(__u32 service, __u32 *first, __u32 *generation)
{
	union {
		__u64 word;
		struct service service;
	} now;
	struct service *found = services.lookup(&service);

	if (!found)
		return false;
	now.word = *(volatile __u64 *)found;
	*first = now.service.first_slot;
	*generation = now.service.generation;
	return now.service.first_slot != 0;
}

/*
 * Fill set with the backends that in-cluster traffic to service may use.
 * Return false when the slots read are not this service's: it changed meanwhile.
 */
static __always_inline bool set_read(__u32 service, struct backend_set *set)
{
	__u32 first, generation;
	struct slot *slot;
	struct slot copy;

	if (!service_read(service, &first, &generation))
		return false;
	slot = slots.lookup(&first);
	if (!slot)
		return false;
	copy = *slot;
	if (copy.service != service || copy.generation != generation)
		return false;
	set->generation = generation;
	set->flags = copy.header.flags;
	if (copy.header.flags & SERVICE_INTERNAL_LOCAL) {
		set->first = first + 1;
		set->count = copy.header.local_count;
	} else {
		set->first = first + 1 + copy.header.cluster_offset;
		set->count = copy.header.cluster_count;
	}
	return true;
}

/* Return a uniformly random number below count (count is not 0). */
static __always_inline __u32 random_below(__u32 count)
{
	return ((__u64)bpf_get_prandom_u32() * count) >> 32;
}

/* Copy backend number index of set to picked. Return false when the slot is not the set's. */
static __always_inline bool backend_read(__u32 service, const struct backend_set *set, __u32 index,
					 struct pick *picked)
{
	__u32 number = set->first + index;
	struct slot *slot = slots.lookup(&number);
	struct slot copy;

	if (!slot)
		return false;
	copy = *slot;
	if (copy.service != service || copy.generation != set->generation)
		return false;
	picked->backend.addr = copy.backend.addr;
	picked->backend.port = copy.backend.port;
	picked->backend.pad = 0;
	picked->flags = copy.backend.flags;
	picked->service = service;
	picked->generation = set->generation;
	return true;
}

/* Return what happens to a connection when the set that it may use is empty. */
static __always_inline enum verdict verdict_of_empty(const struct backend_set *set)
{
	return set->flags & SERVICE_HAS_ENDPOINTS ? VERDICT_DROP : VERDICT_REFUSE;
}

/*
 * Choose a backend of service for a new connection, each with equal probability (A4.7).
 * Return VERDICT_FORWARD with picked filled, or what else happens to the connection.
 */
static __always_inline enum verdict backend_pick(__u32 service, struct pick *picked)
{
#pragma unroll
	for (int i = 0; i < PICK_TRIES; i++) {
		struct backend_set set;

		if (!set_read(service, &set))
			continue;
		if (!set.count)
			return verdict_of_empty(&set);
		if (backend_read(service, &set, random_below(set.count), picked))
			return VERDICT_FORWARD;
	}
	count(COUNTER_STALE);
	return VERDICT_REFUSE;
}

/*
 * Return whether backend, chosen for service at generation, may still be used; bring
 * generation up to date where it may. Costs one array look-up while nothing changed.
 */
static __always_inline bool backend_is_member(__u32 service, const struct endpoint *backend,
					      __u32 *generation)
{
	struct member_key key = { .service = service, .endpoint = *backend };
	__u32 first, now;

	if (!service_read(service, &first, &now))
		return false;
	if (now == *generation)
		return true;
	if (!members.lookup(&key))
		return false;
	*generation = now;
	return true;
}

#endif /* PYPROXY_BALANCE_H */
