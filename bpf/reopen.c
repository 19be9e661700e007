/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a connection begins where another one stands that is over, has lost its backend, or
 * clashes. That one ends first.
 */
#include "table.h"

int reopen(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};
	__u32 now = now_ticks();
	bool clash = false;

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	if (connection_find(&packet, SIDE_INGRESS, &found) == FOUND) {
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
