/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a packet to what may have been a backend. Datagrams of a socket that asked for its
 * service go to another one.
 */
#include "asked.h"
#include "left.h"

int left(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct target target;
	__u32 since = epoch(SETTING_FRONTEND_EPOCH), generation = 0;

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	target = left_match(skb, &packet);
	if (target.service && !backend_is_member(target.service, &packet.dst, &generation))
		return open_service(skb, &packet, target, since);
	stage_enter(skb, STAGE_DIRECT, &packet, SIDE_INGRESS);
	return TC_NEXT;
}
