/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage that is there only while connections come from a table of another size: a packet that
 * finds nothing may belong to one that is still over there, and brings it along (rule 23). It is
 * an object of its own, so that no other program has to know the former table.
 */
#include "table.h"

/* What an earlier object has pinned: only looked up. */
BPF_F_TABLE("hash:" FORMER_PIN_DIR "/nat", struct nat_key, struct nat_entry, former_nat, 1,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("array:" FORMER_PIN_DIR "/connections", __u32, struct connection, former_connections, 1,
	    BPF_F_MMAPABLE);

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

/* Copy a former record, but for its life. Return false if it became another's meanwhile. */
static __always_inline bool record_copy(struct connection *record, struct former *former)
{
	const struct connection *old = former_connections.lookup(&former->number);
	__u32 from = __builtin_offsetof(struct connection, client);

	if (!old)
		return false;
	__builtin_memcpy((void *)record + from, (void *)old + from, CONNECTION_BYTES - from);
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

/* Bring a packet's connection along, if nobody else has done so meanwhile. */
static __always_inline void connection_adopt(const struct packet *packet, __u32 side,
					     struct former *former)
{
	__u32 number = connection_claim(now_ticks());
	struct connection *record = connections.lookup(&number);
	/* who has claimed the source does not know this record */
	__u64 life = former->life & ~(__u64)LIFE_SOURCE_CLAIMED;

	if (!number || !record)
		return;
	if (!record_copy(record, former) || !is_of(record, former->role, side, packet))
		*(volatile __u64 *)&record->life = 0;
	else if (entries_adopt(record, number, life))
		connection_release(number, (__u32)life);
}

int adopt(struct __sk_buff *skb)
{
	__u32 at = stage_ip(skb), side = stage_side(skb);
	struct packet packet = {};
	struct former former = {};

	if (packet_read(skb, at, &packet) == READ_DONE && former_find(&packet, side, &former))
		connection_adopt(&packet, side, &former);
	looked_back(skb, side);
	stage_again(skb, at, side);
	return TC_DROP;
}
