/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: this node itself sends from a port that stands for a client, to the backend of that
 * client's connection: a socket, or what the kernel has masqueraded. The answers to both would
 * be one and the same, so that this one gets another port (rule 9).
 */
#include "table.h"

/* Make all that leads to the record but for what answers it. Return 0 or what failed. */
static __always_inline long apart_insert(struct connection *record, __u32 number, __u32 flags,
					 __u32 now)
{
	struct nat_entry request = { .connection = number, .role = ROLE_REQUEST };
	struct nat_entry reply = { .connection = number, .role = ROLE_REPLY };
	struct nat_key key = reply_out(record);
	__u32 other = 0;
	long failed = entry_insert(&key, &reply, &other, now);

	if (failed)
		return failed;
	*(volatile __u64 *)&record->life = life_at(flags | LIFE_READY, now);
	key = request_in(record);
	failed = entry_insert(&key, &request, &other, now);
	key = request_out(record);
	return failed ? failed : entry_insert(&key, &request, &other, now);
}

/*
 * Make a connection of what the node sends; as it leaves it gets another port (source.c). Return
 * false if it cannot be.
 */
static __always_inline bool apart_open(const struct packet *packet, __u32 now)
{
	__u32 flags = LIFE_CLAIMED | LIFE_OWN | LIFE_SOURCE_WANTED |
		      (packet->proto == IPPROTO_UDP ? LIFE_UDP : 0);
	__u32 number = connection_claim(now);
	struct connection *record = connections.lookup(&number);
	struct pick picked = { .backend = packet->dst };

	if (!number || !record)
		return false;
	record_write(record, packet, &picked);
	record->uplink = 0;
	record->check = connection_check(record);
	if (apart_insert(record, number, flags, now)) {
		connection_release(number, flags);
		return false;
	}
	ends_mark(record, flags);
	count(COUNTER_PACKET_APART);
	return true;
}

int apart(struct __sk_buff *skb)
{
	struct packet packet = {}, answer;
	struct found found = {};
	__u32 now = now_ticks();

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	if (connection_find(&packet, SIDE_EGRESS, &found) == FOUND) {
		/* another CPU may just have made it */
		if (!is_expired(found.copy.life, now) && !is_closed(found.copy.life)) {
			stage_again(skb, SIDE_EGRESS);
			return TC_DROP;
		}
		connection_end(found.number, found.copy.life, now);
	}
	answer = packet_answer(&packet);
	if (connection_find(&answer, SIDE_INGRESS, &found) != FOUND || found.role != ROLE_REPLY ||
	    is_expired(found.copy.life, now))
		return TC_NEXT;
	if (gives_way(found.copy.life, now)) {
		connection_end(found.number, found.copy.life, now);
		return TC_NEXT;
	}
	if (!apart_open(&packet, now))
		return TC_DROP;
	stage_again(skb, SIDE_EGRESS);
	return TC_DROP;
}
