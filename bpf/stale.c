/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: the entry of a packet leads to a record that is another connection's (rule 7). Nobody
 * else would ever delete such an entry, and it would swallow whatever comes by these ends.
 */
#include "connection.h"

/* Return whether an entry leads nowhere: to nobody's record, or to a whole one of others. */
static __always_inline bool is_loose(const struct nat_entry *entry, const struct packet *packet,
				     __u32 side)
{
	__u32 number = entry->connection, role = entry->role;
	struct connection copy = {};

	if (connection_copy(number, &copy))
		return !is_of(&copy, role, side, packet);
	/* one that is being made has entries before it is ready, one that ends has them yet */
	return !(copy.life & LIFE_CLAIMED);
}

int stale(struct __sk_buff *skb)
{
	__u32 side = stage_side(skb);
	struct packet packet = {};
	struct nat_entry *entry;
	struct nat_key key;

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_DROP;
	key = key_of(&packet.src, &packet.dst, packet.proto, side);
	entry = nat.lookup(&key);
	if (entry && !is_loose(entry, &packet, side))
		return TC_DROP;
	if (entry)
		nat.delete(&key);
	stage_again(skb, side);
	return TC_DROP;
}
