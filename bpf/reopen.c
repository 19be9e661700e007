/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a connection begins where another one stands that is over, has lost its backend or its
 * frontend, or clashes. That one ends first.
 */
#include "left.h"
#include "table.h"

/* Return the service that a packet asks for, 0 if it is none's. */
static __always_inline __u32 service_asked(struct __sk_buff *skb, const struct packet *packet)
{
	struct target target = frontend_match(&packet->dst, packet->proto);

	return target.service ? target.service : left_match(skb, packet).service;
}

/* Note that a connection's frontend leads to its service yet, if frontends have changed. */
static __always_inline void frontend_note(struct __sk_buff *skb, const struct packet *packet,
					  struct found *found)
{
	struct connection *copy = &found->copy, *record = connections.lookup(&found->number);
	/* before the frontend: one that changes meanwhile is looked for again */
	__u16 since = epoch(SETTING_FRONTEND_EPOCH);

	if (!record || copy->frontend_epoch == since || service_asked(skb, packet) != copy->service)
		return;
	copy->frontend_epoch = since;
	if (record->check == copy->check)
		record->frontend_epoch = since;
}

int reopen(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};
	__u32 now = now_ticks();
	bool clash = false;

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	if (connection_find(&packet, SIDE_INGRESS, &found) == FOUND) {
		frontend_note(skb, &packet, &found);
		/* another CPU may just have made it */
		if (is_usable(&found, &packet, now)) {
			stage_again(skb, SIDE_INGRESS);
			return TC_DROP;
		}
		clash = found.copy.life & LIFE_CLASH;
		connection_end(found.number, found.copy.life, now);
	}
	stage_open(skb, &packet, clash);
	return TC_DROP;
}
