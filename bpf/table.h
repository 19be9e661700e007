/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Taking records and entries of the connection table, and giving them back. */
#ifndef PYPROXY_TABLE_H
#define PYPROXY_TABLE_H

#include "errors.h"
#include "state.h"

#define FIRST_FREE_PORT 1024 /* RFC 6335 6: those below belong to the system */

/* How many records are looked at for a new connection; half of them only if nobody needs them. */
#define CLAIM_TRIES 32

/* How many of those are neighbours. */
#define HAND_TRIES 4

/* For how long half-open connections, and those that were reset, keep theirs in any case (3 s). */
#define OPENING_TICKS 180

/* Return any port that is not the system's. */
static __always_inline __u16 random_port(void)
{
	return FIRST_FREE_PORT + random_below(65536 - FIRST_FREE_PORT);
}

/* Delete what leads to a connection by key, unless it leads to another one by now. */
static __always_inline void entry_drop(struct nat_key *key, __u32 number)
{
	struct nat_entry *entry = nat.lookup(key);

	if (entry && entry->connection == number)
		nat.delete(key);
}

/* Delete all that leads to a connection, whose record is claimed. */
static __always_inline void entries_drop(struct connection *record, __u32 number, __u32 flags)
{
	struct nat_key key = request_in(record);

	entry_drop(&key, number);
	if (flags & LIFE_PASS)
		return;
	key = reply_out(record);
	entry_drop(&key, number);
	if (!(flags & LIFE_SOURCE_WANTED))
		return;
	key = request_out(record);
	entry_drop(&key, number);
	key = reply_in(record);
	entry_drop(&key, number);
}

/* Take a record from the state that `life` says. Return false if somebody else was faster. */
static __always_inline bool record_take(struct connection *record, __u64 life, __u32 now)
{
	__u64 claimed = life_at(LIFE_CLAIMED, now);

	return __sync_val_compare_and_swap(&record->life, life, claimed) == life;
}

/*
 * Return whether a connection is over for all who need its place: it was closed, or has been silent
 * since it was reset, which a forged reset would not have made it.
 */
static __always_inline bool is_spent(__u64 life, __u32 now)
{
	return is_closed(life) || (life & LIFE_RESET && life_age(life, now) > OPENING_TICKS);
}

/*
 * Return whether a connection has to make room while there is none: one that is over, or that
 * has not been established and was silent. Established ones never have to (rule 11).
 */
static __always_inline bool may_evict(__u64 life, __u32 now)
{
	if (!(life & LIFE_READY))
		return false;
	if (is_spent(life, now))
		return true;
	return !(life & LIFE_ESTABLISHED) && life_age(life, now) > OPENING_TICKS;
}

/* Take one record if it is free or nobody's any more. Return false if it is somebody's. */
static __always_inline bool record_claim(__u32 number, bool evicts, __u32 now)
{
	struct connection *record = connections.lookup(&number);
	bool evicted;
	__u64 life;

	if (!record)
		return false;
	life = *(volatile __u64 *)&record->life;
	evicted = life && !is_expired(life, now);
	if (evicted && !(evicts && may_evict(life, now)))
		return false;
	if (!record_take(record, life, now))
		return false;
	if (life & LIFE_READY)
		entries_drop(record, number, (__u32)life);
	if (evicted)
		count(COUNTER_TABLE_EVICTED);
	return true;
}

/* Move a CPU's hand to the next record and return it; its memory is read ahead by the CPU. */
static __always_inline __u32 hand_next(void)
{
	__u32 zero = 0, *at = hand.lookup(&zero);

	if (!at)
		return 1;
	*at = *at >= MAX_CONNECTIONS - 1 ? 1 : *at + 1;
	return *at;
}

/*
 * Return the number of a record for a new connection, 0 if none was found. First come those
 * at the CPU's hand; where many in a row are in use, records are drawn at random. So there is no
 * list of free ones to keep, and what ended without a word is found by and by.
 */
static __always_inline __u32 connection_search(__u32 now)
{
	for (__u32 i = 0; i < CLAIM_TRIES; i++) {
		__u32 number = i < HAND_TRIES ? hand_next() : 1 + random_below(MAX_CONNECTIONS - 1);

		if (record_claim(number, i >= CLAIM_TRIES / 2, now))
			return number;
	}
	return 0;
}

/* Return the number of a record for a new connection; 0, and tell of it, if the table is full. */
static __always_inline __u32 connection_claim(__u32 now)
{
	__u32 number = connection_search(now);

	if (!number)
		count_trouble(COUNTER_TABLE_FULL, MOMENT_TABLE_FULL);
	return number;
}

/* Write a record, which the caller has claimed, but for its life and checks. */
static __always_inline void record_write(struct connection *record, const struct packet *packet,
					 const struct pick *picked)
{
	record->client = packet->src;
	record->frontend = packet->dst;
	record->backend = picked->backend;
	record->proto = packet->proto;
	record->service = picked->target.service;
	record->generation = picked->generation;
	record->frontend_epoch = picked->frontend_epoch;
	record->client_port = packet->src.port;
}

/* Give a record back that is claimed by nobody but the caller. */
static __always_inline void connection_release(__u32 number, __u32 flags)
{
	struct connection *record = connections.lookup(&number);

	if (!record)
		return;
	entries_drop(record, number, flags);
	*(volatile __u64 *)&record->life = 0;
}

/* End a connection whose life was so. Nothing happens if it has just become another one. */
static __always_inline void connection_end(__u32 number, __u64 life, __u32 now)
{
	struct connection *record = connections.lookup(&number);

	if (record && record_take(record, life, now))
		connection_release(number, (__u32)life);
}

/* Return whether a connection needs what leads to it; end one that is over. */
static __always_inline bool is_needed(__u32 number, __u32 now)
{
	struct connection *record = connections.lookup(&number);
	__u64 life;

	if (!record)
		return false;
	life = *(volatile __u64 *)&record->life;
	if (!(life & LIFE_READY))
		return life && !is_expired(life, now);
	if (!is_expired(life, now) && !is_closed(life))
		return true;
	connection_end(number, life, now);
	return false;
}

/*
 * Make an entry lead to a connection. An entry that leads to one that is over gives way; `other`
 * is the number of one that is not. Return 0, -EEXIST, or why the kernel can't.
 */
static __always_inline long entry_insert(struct nat_key *key, struct nat_entry *to, __u32 *other,
					 __u32 now)
{
	long failed = nat.insert(key, to);
	struct nat_entry *entry;

	if (failed != -EEXIST)
		return failed;
	entry = nat.lookup(key);
	if (entry) {
		*other = entry->connection;
		if (is_needed(*other, now))
			return -EEXIST;
		entry_drop(key, *other);
	}
	return nat.insert(key, to);
}

/* Mark the ends by which packets of a connection are known. */
static __always_inline void ends_mark(struct connection *record, __u32 flags)
{
	struct endpoint client = inner_client(record);

	mark_busy(&record->frontend);
	mark_busy(&record->backend);
	if (flags & LIFE_SOURCE_WANTED)
		mark_busy(&client);
}

#endif /* PYPROXY_TABLE_H */
