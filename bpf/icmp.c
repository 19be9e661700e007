/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: an ICMP packet leaves. A redirect that this node sends about a packet which it has
 * translated speaks of a backend: the client would install a route to it for the service
 * (rule 2; netfilter drops such redirects as well).
 */
#include "connection.h"

int icmp_out(struct __sk_buff *skb)
{
	struct packet about = {}, answer;
	struct found found = {};
	__u32 at = stage_ip(skb), icmp;
	__u8 type;

	if (packet_read(skb, at, &about) != READ_ICMP)
		return TC_NEXT;
	icmp = about.transport;
	if (bpf_skb_load_bytes(skb, icmp, &type, sizeof(type)) || type != ICMP_REDIRECT)
		return TC_NEXT;
	if (!quoted_read(skb, redirected(skb, icmp), &about))
		return TC_NEXT;
	answer = packet_answer(&about);
	if (connection_find(&answer, SIDE_EGRESS, &found) == FOUND_NOTHING)
		return TC_NEXT;
	count(COUNTER_PACKET_REDIRECT);
	return TC_DROP;
}
