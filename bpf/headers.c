/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a packet is not as most are. It has IPv4 options or IPv6 extension headers, is a
 * fragment, or its headers are not in one piece. Where its transport header is goes along to the
 * stages that follow. A fragment without one has the ports of the first of its packet.
 */
#include "headers.h"
#include "ends.h"
#include "marks.h"

/* For how long a packet's fragments are waited for (30 s as ip_fragment's ipfrag_time, in ticks). */
#define FRAGMENT_TICKS 1788

#define TRANSPORT_BYTES ((__u32)sizeof(struct tcp_header)) /* the longest of those we read */

/* Return the key of what the fragments of a packet have in common at one side. */
static __always_inline struct fragment_key fragment_key(const struct headers *headers, __u32 side)
{
	struct fragment_key key = {
		.src = headers->src,
		.dst = headers->dst,
		.id = headers->id,
		.proto = fragment_proto(headers),
		.side = side,
	};

	return key;
}

/* Return what a fragment's value has in `check`. */
static __always_inline __u32 fragment_check(const struct fragment_key *key,
					    const struct fragment *value)
{
	return addr_fold(&key->src) ^ (addr_fold(&key->dst) << 1) ^ key->id ^
	       (key->proto << 8 | key->side) ^ (value->src_port << 16 | value->dst_port) ^
	       value->proto << 24 ^ value->seen ^ 0xf4a63e27;
}

/* Remember the ports of a first fragment, if it may be a connection's. */
static __always_inline void fragment_note(const struct headers *headers,
					  const struct packet *packet, __u32 side)
{
	struct fragment_key key = fragment_key(headers, side);
	struct fragment value = {
		.src_port = packet->src.port,
		.dst_port = packet->dst.port,
		.proto = packet->proto,
		.seen = now_ticks(),
	};

	if (!is_marked(side == SIDE_EGRESS ? &packet->src : &packet->dst))
		return;
	value.check = fragment_check(&key, &value);
	fragments.update(&key, &value);
}

/* Give a later fragment the ports of its packet. Return false if they are not known. */
static __always_inline bool fragment_recall(const struct headers *headers, struct packet *packet,
					    __u32 side)
{
	struct fragment_key key = fragment_key(headers, side);
	const struct fragment *value = fragments.lookup(&key);
	struct fragment copy;

	if (!value)
		return false;
	copy = *value;
	if (copy.check != fragment_check(&key, &copy) || now_ticks() - copy.seen > FRAGMENT_TICKS)
		return false;
	packet->src.port = copy.src_port;
	packet->dst.port = copy.dst_port;
	packet->proto = copy.proto;
	return true;
}

/*
 * What becomes of a fragment without ports that no connection is known to have: nobody beyond knows
 * a ClusterIP (rules 10 and 25). All else goes where its address says.
 */
static __always_inline int unknown(const struct headers *headers)
{
	struct cidr_key key = { .length = 32 * ADDR_WORDS, .addr = headers->dst };
	const __u32 *found = cluster_cidrs.lookup(&key);

	if (!found || *found == STRICT_DROP || node_address_find(&headers->dst) >= 0)
		return TC_NEXT;
	count(COUNTER_PACKET_FRAGMENT);
	return TC_DROP;
}

/* A fragment without a transport header. */
static __always_inline int later(struct __sk_buff *skb, const struct headers *headers,
				 struct packet *packet, __u32 side)
{
	struct found found = {};
	struct ends ends;
	__u32 diff;

	if (!fragment_recall(headers, packet, side) ||
	    connection_find(packet, side, &found) != FOUND || !is_translatable(&found, side))
		return unknown(headers);
	ends = ends_of(&found, packet, side);
	diff = sum_fold(addr_diff(&packet->src.addr, &ends.src.addr) +
			addr_diff(&packet->dst.addr, &ends.dst.addr));
	translated_note(skb, side);
	count(side == SIDE_EGRESS ? COUNTER_PACKET_OUT : COUNTER_PACKET_IN);
	if (found.role == (side == SIDE_EGRESS ? ROLE_REPLY : ROLE_REQUEST))
		traffic_note(skb, found.copy.service, packet->ip);
	packet_sum_fix(skb, diff);
	if (addresses_write(skb, packet, &ends.src.addr, &ends.dst.addr, diff))
		return TC_DROP;
	return translated_go(skb, packet, &found, side);
}

/* Bring all headers of a packet into one piece. Return false if that cannot be done. */
static __always_inline bool headers_pull(struct __sk_buff *skb, const struct headers *headers)
{
	__u32 wanted = headers->transport + TRANSPORT_BYTES;

	return headers->transport <= TRANSPORT_MAX &&
	       !bpf_skb_pull_data(skb, skb->len < wanted ? skb->len : wanted);
}

/* Return whether a hook has to do with the packet at all; ingress() and egress() say why. */
static __always_inline bool is_looked_at(const struct __sk_buff *skb, __u32 side)
{
	return side == SIDE_EGRESS ? !is_tagged(skb) : is_for_us(skb);
}

int headers(struct __sk_buff *skb)
{
	__u32 at = stage_ip(skb), side = stage_side(skb);
	struct headers headers = {};
	struct packet packet = {};

	if (!is_looked_at(skb, side) || !headers_find(skb, at, &headers))
		return TC_NEXT;
	if (headers.part == PART_LATER) {
		headers_read(skb, at, &headers, &packet);
		return later(skb, &headers, &packet, side);
	}
	if (!headers_pull(skb, &headers))
		return TC_NEXT;
	if (headers_read(skb, at, &headers, &packet)) {
		if (headers.part == PART_FIRST)
			fragment_note(&headers, &packet, side);
	} else if (headers.part == PART_FIRST && is_served(packet.proto)) {
		return unknown(&headers);
	}
	stage_enter(skb, side == SIDE_EGRESS ? STAGE_EGRESS : STAGE_INGRESS, &packet, side);
	return TC_NEXT;
}
