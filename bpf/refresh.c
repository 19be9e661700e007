/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a connection was not seen for a second. That it was is written down, and whatever
 * leads to it and is missing is written again (rule 11).
 */
#include "table.h"
#include "way.h"

/*
 * Return the flags of a connection that goes on after a second: UDP that was answered is a
 * stream then and no mere question, as conntrack has it after two (nf_conntrack_udp_packet).
 */
static __always_inline __u32 life_after_second(__u32 flags)
{
	__u32 answered = LIFE_UDP | LIFE_REPLIED;

	/* who has claimed the source has done so long ago, and could not say what came of it */
	flags &= ~(LIFE_SOURCE_CLAIMED | LIFE_MARKED | LIFE_WAYS);
	/* its requests may have been lost for the lack of a mark */
	flags |= life_marked();
	return (flags & answered) == answered ? flags | LIFE_ESTABLISHED : flags;
}

static __always_inline void entry_restore(struct nat_key *key, __u32 number, __u32 role)
{
	struct nat_entry to = { .connection = number, .role = role };

	if (!nat.lookup(key))
		nat.insert(key, &to);
}

/* How many keys lead to a connection, and before its client has a source. */
#define KEYS_WITHOUT_SOURCE 2
#define KEYS 4

static __always_inline struct nat_key key_at(const struct connection *of, __u32 place)
{
	switch (place) {
	case 0:
		return request_in(of);
	case 1:
		return reply_out(of);
	case 2:
		return request_out(of);
	default:
		return reply_in(of);
	}
}

/*
 * A loop, so that one key at a time is on the stack: for four of IPv6, one after the other, what LLVM
 * makes for arm64 has no room.
 */
static __always_inline void entries_restore(struct found *found)
{
	const struct connection *copy = &found->copy;
	__u32 many = copy->life & LIFE_SOURCE_READY ? KEYS : KEYS_WITHOUT_SOURCE;

	if (copy->life & LIFE_PASS)
		return;
#pragma nounroll
	for (__u32 place = 0; place < many; place++) {
		struct nat_key key = key_at(copy, place);

		entry_restore(&key, found->number, place & 1 ? ROLE_REPLY : ROLE_REQUEST);
	}
}

int refresh(struct __sk_buff *skb)
{
	__u32 side = stage_side(skb);
	struct packet packet = {};
	struct found found = {};

	if (stage_read(skb, &packet) == READ_DONE &&
	    connection_find(&packet, side, &found) == FOUND &&
	    life_change(&found, life_after_second((__u32)found.copy.life), now_ticks()))
		entries_restore(&found);
	stage_again(skb, side);
	return TC_DROP;
}
