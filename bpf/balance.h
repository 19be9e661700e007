/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which service an address belongs to, and which of its backends a new connection gets. */
#ifndef PYPROXY_BALANCE_H
#define PYPROXY_BALANCE_H

#include "affinity.h"

enum verdict {
	VERDICT_PASS, /* not a service's: leave it alone */
	VERDICT_FORWARD, /* to the backend that was picked */
	VERDICT_REFUSE, /* no endpoints anywhere (parity A8.1) */
	VERDICT_DROP, /* a Local policy and no local endpoint (A8.2) */
};

/* Whose a client is, as far as policies and masquerading tell them apart (parity A9.5-A9.8). */
enum client {
	CLIENT_OTHER = 0,
	CLIENT_POD,
	CLIENT_NODE, /* a process of this node */
};

/* For whom and what a backend is picked, which one it is, and for which state of the service. */
struct pick {
	struct target target;
	__u32 client; /* enum client */
	__u32 is_affine; /* the service has sessionAffinity */
	__u32 policies; /* enum service_flag */
	__u32 flags; /* enum backend_flag */
	__u32 generation;
	__u32 frontend_epoch; /* from before `target` was looked for */
	struct endpoint backend;
};

/* The set of backends a connection may use, as the header has it now. */
struct backend_set {
	__u32 first; /* slot of the first usable backend */
	__u32 count;
	__u32 generation;
	__u32 flags;
	__u32 affinity_s;
	bool is_local; /* only backends on this node */
};

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
 * Return whether a connection may only have backends on this node (parity A4.4, A4.5). Pods and
 * processes of the node reach all from outside as well (A9.6, A9.7).
 */
static __always_inline bool is_local_only(const struct pick *picked, __u32 policies)
{
	if (picked->target.kind == KIND_CLUSTER_IP)
		return policies & SERVICE_INTERNAL_LOCAL;
	return policies & SERVICE_EXTERNAL_LOCAL &&
	       (picked->client == CLIENT_OTHER || picked->target.unserved);
}

/*
 * Fill set with the backends that the connection may use.
 * Return false when the slots read are not this service's: it changed meanwhile.
 */
static __always_inline bool set_read(const struct pick *picked, struct backend_set *set)
{
	__u32 service = picked->target.service, first, generation;
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
	set->affinity_s = copy.header.affinity_s;
	set->is_local = is_local_only(picked, copy.header.flags);
	if (set->is_local) {
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
static __always_inline bool backend_read(const struct backend_set *set, __u32 index,
					 struct pick *picked)
{
	__u32 number = set->first + index;
	struct slot *slot = slots.lookup(&number);
	struct slot copy;

	if (!slot)
		return false;
	copy = *slot;
	if (copy.service != picked->target.service || copy.generation != set->generation)
		return false;
	picked->backend.addr = copy.backend.addr;
	picked->backend.port = copy.backend.port;
	picked->backend.pad = 0;
	picked->flags = copy.backend.flags;
	picked->policies = set->flags;
	picked->generation = set->generation;
	return true;
}

/*
 * Take the backend that the client had, if it is in the set. One that is not stays remembered
 * nowhere: another one is picked and takes its place (parity A6.3).
 */
static __always_inline bool backend_remembered(const struct backend_set *set,
					       struct affinity_key *who, struct pick *picked)
{
	struct member_key key = { .service = picked->target.service };
	const struct member *member;
	__u32 flags;

	if (!affinity_read(who, set->affinity_s, &key.endpoint))
		return false;
	member = members.lookup(&key);
	if (!member)
		return false;
	flags = member->flags;
	if (!(flags & (set->is_local ? BACKEND_IN_LOCAL : BACKEND_IN_CLUSTER)))
		return false;
	picked->backend = key.endpoint;
	picked->flags = flags;
	picked->policies = set->flags;
	picked->generation = set->generation;
	return true;
}

/* Return what happens to a connection when the set that it may use is empty. */
static __always_inline enum verdict verdict_of_empty(const struct backend_set *set)
{
	return set->flags & SERVICE_HAS_ENDPOINTS ? VERDICT_DROP : VERDICT_REFUSE;
}

/*
 * Choose a backend for a new connection, by what picked says of it: each with equal probability
 * (A4.7), or the one that this client had (A6). Without a client, each in any case. Return
 * VERDICT_FORWARD with the rest of picked filled, or what else happens to the connection.
 */
static __always_inline enum verdict backend_pick(struct pick *picked, struct affinity_key *who)
{
#pragma unroll
	for (int i = 0; i < READ_TRIES; i++) {
		struct backend_set set;

		if (!set_read(picked, &set))
			continue;
		if (!set.count)
			return verdict_of_empty(&set);
		if (picked->target.unserved)
			return VERDICT_PASS;
		picked->is_affine = set.affinity_s;
		if (!(who && set.affinity_s && backend_remembered(&set, who, picked)) &&
		    !backend_read(&set, random_below(set.count), picked))
			continue;
		if (who && set.affinity_s)
			affinity_write(who, &picked->backend);
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
