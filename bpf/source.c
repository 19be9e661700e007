/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stage: a connection whose client must not be seen gets an address of this node (rule 8). */
#include "source.h"
#include "hops.h"

/*
 * How often a CPU looks whether another one has chosen a source, which takes that 2 us unless it is
 * called away: for 50 us and more, since the clock takes 25 ns. Verifiers walk every look.
 */
#define AWAIT_LOOKS 2048

/* Give the connection its source. Return false if there is none for it. */
static __always_inline bool source_choose(struct __sk_buff *skb, struct found *found, __u32 now)
{
	struct connection *record = connections.lookup(&found->number);
	/* before the address: one that goes meanwhile is looked for again */
	__u16 since = epoch(SETTING_ADDRESS_EPOCH);

	if (!record)
		return false;
	/* what the node sends itself has an address already */
	if (found->copy.life & LIFE_OWN)
		record->source.addr = record->client.addr;
	else if (!source_address(skb->ifindex, &record->backend.addr, &record->source.addr))
		return false;
	if (!source_port(skb, record, found->number, now))
		return false;
	record->source_check = connection_source_check(record);
	record->source_epoch = since;
	mark_busy(&record->source);
	return true;
}

/*
 * Return whether the node still has a connection's source. Where it has not, a connection that has
 * got no further than its first packets, or a UDP client, gets another one; others end (rule 8).
 */
static __always_inline bool source_keep(struct found *found, __u32 now)
{
	struct connection *record = connections.lookup(&found->number);
	__u32 life = (__u32)found->copy.life;
	__u16 since = epoch(SETTING_ADDRESS_EPOCH);
	struct nat_key key;

	if (node_address_find(&found->copy.source.addr) >= 0) {
		if (record && record->check == found->copy.check)
			record->source_epoch = since;
		return true;
	}
	if (life & LIFE_REPLIED && !(life & LIFE_UDP)) {
		connection_end(found->number, found->copy.life, now);
		return false;
	}
	key = reply_in(&found->copy);
	entry_drop(&key, found->number);
	life_set(found, 0, LIFE_SOURCE_READY, now);
	return true;
}

/*
 * Wait while another CPU chooses the source. Return false if it takes longer than a packet may be
 * kept: one of TCP is sent again, a datagram is lost.
 */
static __always_inline bool source_await(const struct found *found)
{
	__u32 number = found->number;
	const struct connection *record = connections.lookup(&number);

	if (!record)
		return false;
#pragma nounroll
	for (int i = 0; i < AWAIT_LOOKS; i++) {
		if (*(volatile __u64 *)&record->life & LIFE_SOURCE_READY)
			return true;
		bpf_ktime_get_ns();
	}
	return false;
}

int source(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};
	__u32 now = now_ticks();

	if (stage_read(skb, &packet) != READ_DONE ||
	    connection_find(&packet, SIDE_EGRESS, &found) != FOUND || found.role != ROLE_REQUEST)
		return TC_DROP;
	if (found.copy.life & LIFE_SOURCE_READY &&
	    found.copy.source_epoch != epoch(SETTING_ADDRESS_EPOCH) && !source_keep(&found, now))
		return TC_DROP;
	/* two packets of one client at once: one of them chooses, the other one waits for that */
	if (!(found.copy.life & LIFE_SOURCE_READY)) {
		if (found.copy.life & LIFE_SOURCE_CLAIMED ||
		    !life_change(&found, (__u32)found.copy.life | LIFE_SOURCE_CLAIMED, now)) {
			if (source_await(&found))
				stage_again(skb, SIDE_EGRESS);
			return TC_DROP;
		}
		if (!source_choose(skb, &found, now)) {
			life_set(&found, 0, LIFE_SOURCE_CLAIMED, now);
			count_trouble(COUNTER_SOURCE_EXHAUSTED, MOMENT_SOURCE_EXHAUSTED);
			return TC_DROP;
		}
		life_set(&found, LIFE_SOURCE_READY, LIFE_SOURCE_CLAIMED, now);
		count(COUNTER_PACKET_SOURCE);
	}
	stage_again(skb, SIDE_EGRESS);
	return TC_DROP;
}
