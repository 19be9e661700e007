/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How connections come from a table of another size (rule 23): a packet that finds nothing may
 * belong to one that is still over there, and brings it along; the agent runs `move` for the
 * others. An object of its own, so that no other program has to know the former table.
 */
#include "table.h"

/* What an earlier object has pinned, and the loader puts in place of these: only looked up. */
BPF_F_TABLE("hash", struct nat_key, struct nat_entry, former_nat, 1, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", __u32, struct connection, former_connections, 1, BPF_F_MMAPABLE);

/* Where `move` copies a record: it takes half the stack. Nothing else runs here meanwhile. */
BPF_PERCPU_ARRAY(copies, struct connection, 1);

/* How often room is looked for before a connection counts as lost, until the first one is. */
#define MOVE_TRIES 64

/* What a packet's entry in the former table says, and the life of the record that it leads to. */
struct former {
	__u32 number;
	__u32 role;
	__u64 life;
};

/* Find a packet's connection in the former table; whether it is one shows only in the copy. */
static __always_inline bool former_find(const struct packet *packet, __u32 side,
					struct former *former)
{
	struct nat_key key = key_of(&packet->src, &packet->dst, packet->proto, side);
	struct nat_entry *entry = former_nat.lookup(&key);
	struct connection *record;

	if (!entry)
		return false;
	former->number = entry->connection;
	former->role = entry->role;
	record = former_connections.lookup(&former->number);
	if (!record)
		return false;
	former->life = *(volatile __u64 *)&record->life;
	return former->life & LIFE_READY && !is_expired(former->life, now_ticks());
}

/* Copy a record, but for its life. */
static __always_inline void record_fill(struct connection *record, const struct connection *from)
{
	__u32 at = __builtin_offsetof(struct connection, client);

	__builtin_memcpy((void *)record + at, (void *)from + at, CONNECTION_BYTES - at);
}

/* Copy a former record, but for its life. Return false if it became another's meanwhile. */
static __always_inline bool record_copy(struct connection *record, struct former *former)
{
	const struct connection *old = former_connections.lookup(&former->number);

	if (!old)
		return false;
	record_fill(record, old);
	return record->check == connection_check(record);
}

/* Make an entry lead to a record, unless there is one. Return 0 or what failed. */
static __always_inline long entry_adopt(struct nat_key key, __u32 number, __u32 role)
{
	struct nat_entry to = { .connection = number, .role = role };

	return nat.insert(&key, &to);
}

/* Make everything lead to the record that did so in the former table. */
static __always_inline long entries_adopt(struct connection *record, __u32 number, __u64 life)
{
	bool passes = life & LIFE_PASS;
	long failed = 0;

	if (!passes)
		failed = entry_adopt(reply_out(record), number, ROLE_REPLY);
	if (!failed && life & LIFE_SOURCE_WANTED)
		failed = entry_adopt(request_out(record), number, ROLE_REQUEST);
	if (!failed && life & LIFE_SOURCE_READY)
		failed = entry_adopt(reply_in(record), number, ROLE_REPLY);
	if (failed)
		return failed;
	*(volatile __u64 *)&record->life = life;
	return entry_adopt(request_in(record), number, passes ? ROLE_PASS : ROLE_REQUEST);
}

/* Make a record, into which a former one was copied, a connection's. Return 0 or what failed. */
static __always_inline long record_adopt(struct connection *record, __u32 number, __u64 former)
{
	/* who has claimed the source does not know this record */
	__u64 life = former & ~(__u64)LIFE_SOURCE_CLAIMED;
	long failed = entries_adopt(record, number, life);

	if (failed) {
		connection_release(number, (__u32)life);
		return failed;
	}
	ends_mark(record, (__u32)life);
	if (life & LIFE_SOURCE_READY)
		mark_busy(&record->source);
	return 0;
}

/*
 * Bring a packet's connection along, if nobody else has done so meanwhile. Return whether the
 * packet may go on: one whose connection is just being brought, or has no room, must not pass
 * untranslated. Sent again, it finds what there is then.
 */
static __always_inline bool connection_adopt(const struct packet *packet, __u32 side,
					     struct former *former)
{
	struct nat_key key = key_of(&packet->src, &packet->dst, packet->proto, side);
	__u32 number = connection_claim(now_ticks());
	struct connection *record = connections.lookup(&number);

	if (!number || !record)
		return false;
	if (!record_copy(record, former) || !is_of(record, former->role, side, packet)) {
		*(volatile __u64 *)&record->life = 0;
		return true;
	}
	return !record_adopt(record, number, former->life) || nat.lookup(&key);
}

int adopt(struct __sk_buff *skb)
{
	__u32 side = stage_side(skb);
	struct packet packet = {};
	struct former former = {};

	if (stage_read(skb, &packet) == READ_DONE && former_find(&packet, side, &former)) {
		if (!connection_adopt(&packet, side, &former))
			return TC_DROP;
	} else {
		/* there may be a table that is older yet */
		stages.call(skb, ADOPT_STAGE + 1);
	}
	looked_back(skb, side);
	stage_again(skb, side);
	return TC_DROP;
}

/* The frame that `move` runs on: what it is to do, what came of it; in the host's byte order. */
struct move {
	__u8 ethernet[16];
	__u32 number; /* of the next record */
	__u32 rank; /* what is to be moved now, as by move_rank() */
	__u32 tries; /* for this record, while there was no room */
	__u32 is_full; /* some connection was lost for want of room */
	__u32 is_done; /* there are no more records */
	__u32 moved;
	__u32 lost;
};

enum moved {
	MOVED, /* or it had come along already */
	MOVED_NOTHING, /* none of that rank, or none at all */
	MOVED_NOT, /* there is no room */
	MOVED_CLASH, /* what should lead to it leads to another one */
	MOVED_ALL, /* there is no record of this number */
};

/* Return how soon a connection may be missed where there is not room for all: 0 comes last. */
static __always_inline __u32 move_rank(__u32 flags)
{
	if (is_over(flags))
		return 2;
	return flags & LIFE_ESTABLISHED ? 0 : 1;
}

/* Copy a former record that is a connection's of a rank. Return false if it is not. */
static __always_inline bool former_copy(struct former *former, __u32 rank, struct connection *copy,
					__u32 now)
{
	const struct connection *old = former_connections.lookup(&former->number);

	if (!old)
		return false;
	former->life = *(volatile __u64 *)&old->life;
	return former->life & LIFE_READY && move_rank((__u32)former->life) == rank &&
	       !is_expired(former->life, now) && record_copy(copy, former);
}

/* Return whether a record is the connection's that was copied. */
static __always_inline bool is_copied(const struct connection *record,
				      const struct connection *copy)
{
	return record->check == copy->check && endpoint_equal(&record->client, &copy->client) &&
	       endpoint_equal(&record->frontend, &copy->frontend) &&
	       endpoint_equal(&record->backend, &copy->backend);
}

/* Give a connection that came along before its source was chosen the one that was. */
static __always_inline void source_adopt(struct found *found, struct connection *record,
					 const struct connection *copy, __u32 now)
{
	struct nat_entry to = { .connection = found->number, .role = ROLE_REPLY };
	__u32 flags = (__u32)found->copy.life, set = 0;
	struct nat_key key;

	if (flags & (LIFE_SOURCE_CLAIMED | LIFE_SOURCE_READY) ||
	    !life_change(found, flags | LIFE_SOURCE_CLAIMED, now))
		return;
	record->source = copy->source;
	record->source_check = copy->source_check;
	key = reply_in(record);
	if (!nat.insert(&key, &to)) {
		mark_busy(&record->source);
		set = LIFE_SOURCE_READY;
	}
	life_set(found, set, LIFE_SOURCE_CLAIMED, now);
}

/* Take over what packets have made of a connection over there after it came along. */
static __always_inline void catch_up(__u32 number, const struct connection *copy, __u32 flags,
				     __u32 now)
{
	struct connection *record = connections.lookup(&number);
	struct found found = { .number = number };

	if (!record)
		return;
	found.copy.life = *(volatile __u64 *)&record->life;
	/* it may have been taken for another one since: then it changes no more */
	if (!(found.copy.life & LIFE_READY) || !is_copied(record, copy))
		return;
	flags &= LIFE_REPLIED | LIFE_ESTABLISHED | LIFE_SOURCE_READY;
	flags &= ~(__u32)found.copy.life;
	if (flags & ~LIFE_SOURCE_READY)
		life_change(&found, (__u32)found.copy.life | (flags & ~LIFE_SOURCE_READY), now);
	if (flags & LIFE_SOURCE_READY)
		source_adopt(&found, record, copy, now);
}

/* Move one connection, if it is of this rank and its entry leads to it. */
static __always_inline enum moved record_move(struct former *former, __u32 rank)
{
	__u32 zero = 0, now = now_ticks(), number;
	struct connection *copy = copies.lookup(&zero), *record;
	struct nat_entry *entry;
	struct nat_key key;
	long failed;

	if (!former_connections.lookup(&former->number))
		return MOVED_ALL;
	if (!copy || !former_copy(former, rank, copy, now))
		return MOVED_NOTHING;
	key = request_in(copy);
	entry = former_nat.lookup(&key);
	if (!entry || entry->connection != former->number)
		return MOVED_NOTHING;
	entry = nat.lookup(&key);
	if (entry) {
		catch_up(entry->connection, copy, (__u32)former->life, now);
		return MOVED;
	}
	number = connection_search(now);
	record = connections.lookup(&number);
	if (!number || !record)
		return MOVED_NOT;
	record_fill(record, copy);
	failed = record_adopt(record, number, former->life);
	if (!failed)
		return MOVED;
	if (failed != -EEXIST)
		return MOVED_NOT;
	/* a packet was faster, or is about to be; or there is another one between the same ends */
	return nat.lookup(&key) ? MOVED : MOVED_CLASH;
}

int move(struct __sk_buff *skb)
{
	struct move *run = (void *)(long)skb->data;
	struct former former = {};

	if ((void *)(run + 1) > (void *)(long)skb->data_end)
		return TC_DROP;
	former.number = run->number;
	switch (record_move(&former, run->rank)) {
	case MOVED_ALL:
		run->is_done = 1;
		return TC_DROP;
	case MOVED_NOT:
		if (!run->is_full && ++run->tries < MOVE_TRIES)
			return TC_DROP;
		run->is_full = 1;
		run->lost++;
		break;
	case MOVED_CLASH:
		if (++run->tries < MOVE_TRIES)
			return TC_DROP;
		run->lost++;
		break;
	case MOVED:
		run->moved++;
		break;
	case MOVED_NOTHING:
		break;
	}
	run->tries = 0;
	run->number++;
	return TC_DROP;
}
