/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A stage: a connection to a service begins. */
#include "open.h"

/* A packet to a frontend. */
static __always_inline int open_service(struct __sk_buff *skb, const struct packet *packet,
					__u32 service, bool clash)
{
	struct pick picked = {};

	switch (backend_pick(service, &picked)) {
	case VERDICT_FORWARD:
		return connection_open(skb, packet, &picked, clash);
	case VERDICT_REFUSE:
		stage_enter(skb, STAGE_REFUSE, packet->ip, SIDE_INGRESS);
		return TC_DROP;
	default:
		count(COUNTER_PACKET_DROP);
		return TC_DROP;
	}
}

int open(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 service;

	if (packet_read(skb, stage_ip(skb), &packet) != READ_DONE)
		return TC_NEXT;
	service = frontend_lookup(&packet.dst, packet.proto);
	if (service)
		return open_service(skb, &packet, service, stage_clash(skb));
	stage_enter(skb, STAGE_DIRECT, packet.ip, SIDE_INGRESS);
	return TC_NEXT;
}
