/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stage: a connection to a service begins. */
#include "open.h"

/* A packet to a frontend. */
static __always_inline int open_service(struct __sk_buff *skb, const struct packet *packet,
					struct target target, __u32 since)
{
	struct pick picked = {
		.target = target,
		.client = client_of(skb, &packet->src.addr),
		.frontend_epoch = since,
	};
	struct affinity_key who = { .service = target.service, .addr = packet->src.addr };
	__u32 zero = 0;

	if (target.filtered && is_kept_out(target.service, &packet->src.addr)) {
		count(COUNTER_PACKET_FILTERED);
		return TC_DROP;
	}
	switch (backend_pick(&picked, &who)) {
	case VERDICT_FORWARD:
		picks.update(&zero, &picked);
		stage_enter(skb, STAGE_JOIN, packet, SIDE_INGRESS);
		return TC_DROP;
	case VERDICT_REFUSE:
		stage_enter(skb, STAGE_REFUSE, packet, SIDE_INGRESS);
		return TC_DROP;
	case VERDICT_PASS:
		return TC_NEXT;
	default:
		count(COUNTER_PACKET_DROP);
		return TC_DROP;
	}
}

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
	stage_enter(skb, STAGE_DIRECT, &packet, SIDE_INGRESS);
	return TC_NEXT;
}
