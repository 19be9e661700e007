/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stage: a connection whose client must not be seen gets an address of this node (rule 8). */
#include "source.h"

/* Copy the address that stands for clients on a device: its own, else the node's. */
static __always_inline bool source_address(__u32 ifindex, struct addr *address)
{
	struct device *device = devices.lookup(&ifindex);
	__u32 node = 0;

	if (!device || !addr_fold(&device->source))
		device = devices.lookup(&node);
	if (!device || !addr_fold(&device->source))
		return false;
	*address = device->source;
	return true;
}

/* Give the connection its source. Return false if there is none for it. */
static __always_inline bool source_choose(struct __sk_buff *skb, struct found *found, __u32 now)
{
	struct connection *record = connections.lookup(&found->number);

	if (!record || !source_address(skb->ifindex, &record->source.addr) ||
	    !source_port(skb, record, found->number, now))
		return false;
	record->source_check = connection_source_check(record);
	mark_busy(&record->source);
	return true;
}

int source(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};
	__u32 now = now_ticks();

	if (packet_read(skb, stage_ip(skb), &packet) != READ_DONE ||
	    connection_find(&packet, SIDE_EGRESS, &found) != FOUND || found.role != ROLE_REQUEST)
		return TC_DROP;
	/* two packets of one client at once: one of them chooses, the other one is sent again */
	if (!(found.copy.life & LIFE_SOURCE_READY)) {
		if (found.copy.life & LIFE_SOURCE_CLAIMED ||
		    !life_change(&found, (__u32)found.copy.life | LIFE_SOURCE_CLAIMED, now))
			return TC_DROP;
		if (!source_choose(skb, &found, now)) {
			life_set(&found, 0, LIFE_SOURCE_CLAIMED, now);
			count_trouble(COUNTER_SOURCE_EXHAUSTED, MOMENT_SOURCE_EXHAUSTED);
			return TC_DROP;
		}
		life_set(&found, LIFE_SOURCE_READY, LIFE_SOURCE_CLAIMED, now);
		count(COUNTER_PACKET_SOURCE);
	}
	stage_again(skb, packet.ip, SIDE_EGRESS);
	return TC_DROP;
}
