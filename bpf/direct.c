/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a packet to no frontend may begin something. It passes, unless nobody may ask for its
 * address, or its answers would be taken for those of a connection from the same port to a service
 * with this backend (rule 4).
 */
#include "open.h"
#include "strict.h"

int open_direct(struct __sk_buff *skb)
{
	struct packet packet = {}, answer;
	struct pick picked = {};
	struct found found = {};
	__u32 now = now_ticks();

	if (stage_read(skb, &packet) != READ_DONE)
		return TC_NEXT;
	/* what is to be dropped is where it leaves: somebody else may serve the address */
	if (strict_verdict(&packet.dst.addr) == VERDICT_REFUSE) {
		stage_enter(skb, STAGE_REFUSE, &packet, SIDE_INGRESS);
		return TC_DROP;
	}
	answer = packet_answer(&packet);
	if (connection_find(&answer, SIDE_EGRESS, &found) != FOUND || found.role != ROLE_REPLY ||
	    is_expired(found.copy.life, now)) {
		if (is_between_busy(&packet.src, &packet.dst))
			stage_enter(skb, STAGE_ASIDE, &packet, SIDE_INGRESS);
		return TC_NEXT;
	}
	if (gives_way(found.copy.life, now)) {
		connection_end(found.number, found.copy.life, now);
		return TC_NEXT;
	}
	picked.backend = packet.dst;
	return connection_open(skb, &packet, &picked, true);
}
