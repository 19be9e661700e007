/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a packet that asks for a service. */
#ifndef PYPROXY_ASKED_H
#define PYPROXY_ASKED_H

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

#endif /* PYPROXY_ASKED_H */
