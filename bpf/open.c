/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stage: a connection to a service begins. */
#include "asked.h"

int open(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct target target;
	__u32 since = epoch(SETTING_FRONTEND_EPOCH);

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	/* nobody may come from outside by 127.0.0.1 or ::1: the node's own have sockets (C10) */
	if (addr_is_loopback(&packet.dst.addr))
		return TC_NEXT;
	target = frontend_match(&packet.dst, packet.proto);
	if (target.service)
		return open_service(skb, &packet, target, since);
	stage_enter(skb, STAGE_LEFT, &packet, SIDE_INGRESS);
	return TC_NEXT;
}
