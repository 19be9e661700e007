/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a frame to a backend that passes the node's IP layer by, from one port of a bridge to
 * another. Answers to connections of ours go this way as well (egress.c), so that a direct
 * connection with the ends of one of those has to get another port here too, or that one, if the
 * direct one is older (rule 4).
 */
#include "open.h"

/* Return whether a frame comes from a wire that other nodes may share: then it is theirs (rule 14). */
static __always_inline bool is_from_outside(const struct __sk_buff *skb)
{
	const struct device *device = device_of(skb->ifindex);

	return !device || device->flags & DEVICE_UPLINK;
}

int bridged(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};

	if (is_from_outside(skb) || stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	switch (connection_find(&packet, SIDE_INGRESS, &found)) {
	case FOUND:
		if (found.role != ROLE_REQUEST || found.copy.service)
			return TC_NEXT;
		stage_again(skb, SIDE_INGRESS);
		return TC_DROP;
	case FOUND_NOTHING:
		if (may_open(&packet))
			stage_enter(skb, STAGE_DIRECT, &packet, SIDE_INGRESS);
		else if (is_between_busy(&packet.src, &packet.dst))
			stage_enter(skb, STAGE_ASIDE, &packet, SIDE_INGRESS);
		return TC_NEXT;
	default:
		return TC_NEXT;
	}
}
