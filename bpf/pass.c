/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: an untranslated datagram leaves whose source is a frontend's address, a socket's of
 * this node or one that the kernel has masqueraded. What answers it is not for the service, so
 * an entry lets that pass (rule 3). It lives by what leaves, as a stream once that goes on: by what
 * answers, a client that was kube-proxy's when we came would never be ours.
 */
#include "table.h"

static __always_inline void pass_open(const struct packet *answer)
{
	__u32 now = now_ticks(), flags = LIFE_CLAIMED | LIFE_READY | LIFE_UDP | LIFE_PASS;
	__u32 number = connection_claim(now);
	struct connection *record = connections.lookup(&number);
	struct nat_entry to = { .connection = number, .role = ROLE_PASS };
	struct nat_key key = key_of(&answer->src, &answer->dst, answer->proto, SIDE_INGRESS);
	struct pick nobody = {};

	if (!number || !record)
		return;
	record_write(record, answer, &nobody);
	record->check = connection_check(record);
	*(volatile __u64 *)&record->life = life_at(flags, now);
	if (nat.insert(&key, &to))
		connection_release(number, flags);
	else
		count(COUNTER_PACKET_PASS);
}

int pass(struct __sk_buff *skb)
{
	struct packet packet = {}, answer;
	struct found found = {};

	/* what somebody else answers who has the address too is no answer of this node's */
	if (stage_read(skb, &packet) != READ_DONE || local_address_find(&packet.src.addr) < 0 ||
	    !frontend_match(&packet.src, packet.proto).service)
		return TC_NEXT;
	answer = packet_answer(&packet);
	switch (connection_find(&answer, SIDE_INGRESS, &found)) {
	case FOUND_NOTHING:
		pass_open(&answer);
		break;
	case FOUND:
		if (found.role == ROLE_PASS &&
		    life_age(found.copy.life, now_ticks()) > REFRESH_TICKS)
			life_set(&found, LIFE_ESTABLISHED, 0, now_ticks());
		break;
	default:
		break;
	}
	return TC_NEXT;
}
