/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tc egress of every device: what backends answer gets the frontend's address, and requests
 * whose client must not be seen an address of this node.
 */
#include "entry.h"
#include "state.h"
#include "translate.h"
#include "way.h"

/* What a backend answers. */
static __always_inline int egress_reply(struct __sk_buff *skb, const struct packet *packet,
					struct found *found, __u32 now)
{
	struct connection *copy = &found->copy;

	/* a source's port is this connection's alone: an ACK is the backend's of an older one */
	if (!(copy->life & LIFE_SOURCE_READY) && is_clash(skb, found, packet)) {
		life_set(found, LIFE_CLASH, 0, now);
		return TC_NEXT;
	}
	life_note(found, life_after_reply((__u32)copy->life, packet), now);
	count(COUNTER_PACKET_OUT);
	traffic_note(skb, copy->service, packet->ip);
	if (packet_translate_out(skb, packet, &copy->frontend, &copy->client) != TC_NEXT)
		return TC_DROP;
	if (copy->uplink && copy->uplink != skb->ifindex)
		stage_back(skb, packet->ip, copy->uplink);
	else
		way_ask(skb, packet, copy->life, LIFE_WAY_REPLY);
	return TC_NEXT;
}

/* What a client sends whose own address the backend must not see. */
static __always_inline int egress_request(struct __sk_buff *skb, const struct packet *packet,
					  struct found *found, __u32 now)
{
	struct connection *copy = &found->copy;

	if (copy->life & LIFE_OWN) {
		if (is_first(packet) && is_closed(copy->life)) {
			stage_enter(skb, STAGE_APART, packet, SIDE_EGRESS);
			return TC_DROP;
		}
		life_note(found, life_after_request((__u32)copy->life, packet), now);
	}
	if (copy->life & LIFE_SOURCE_READY && copy->source_check != connection_source_check(copy)) {
		count(COUNTER_STALE);
		return TC_DROP;
	}
	if (!(copy->life & LIFE_SOURCE_READY) ||
	    copy->source_epoch != epoch(SETTING_ADDRESS_EPOCH)) {
		stage_enter(skb, STAGE_SOURCE, packet, SIDE_EGRESS);
		return TC_DROP;
	}
	count(COUNTER_PACKET_OUT);
	if (packet_translate_out(skb, packet, &copy->source, &packet->dst) != TC_NEXT)
		return TC_DROP;
	way_ask(skb, packet, copy->life, LIFE_WAY_REQUEST);
	return TC_NEXT;
}

/*
 * Return the counter of what must not leave the node untranslated, 0 if the packet may. To an
 * address of a load balancer it may, unless a connection begins that is not for its source (parity
 * A10.1, A8.4: one that was there before goes on).
 */
static __always_inline __u32 egress_refused(const struct packet *packet)
{
	struct frontend found;

	if (!frontend_find(&packet->dst, packet->proto, &found))
		return 0;
	if (found.kind == KIND_CLUSTER_IP)
		return COUNTER_PACKET_LEAK;
	if (found.flags & FRONTEND_FILTERED && may_open(packet) &&
	    is_kept_out(found.service, &packet->src.addr))
		return COUNTER_PACKET_FILTERED;
	return 0;
}

/* A packet that belongs to no connection of ours. */
static __always_inline int egress_other(struct __sk_buff *skb, const struct packet *packet)
{
	/* a bridge forwards what is none of this node's */
	if (skb->pkt_type != PACKET_HOST)
		return TC_NEXT;
	if (is_address_marked(&packet->dst)) {
		__u32 counter = egress_refused(packet);

		if (counter) {
			count(counter);
			return TC_DROP;
		}
	}
	/* a node's rules are where it forwards and sends, after those of who serves other services */
	if (may_open(packet) && strict_verdict(&packet->dst.addr) != VERDICT_PASS) {
		count(COUNTER_PACKET_DROP);
		return TC_DROP;
	}
	if (packet->proto == IPPROTO_UDP && is_frontend_marked(&packet->src))
		stage_enter(skb, STAGE_PASS, packet, SIDE_EGRESS);
	else if (may_open(packet) && is_busy_marked(&packet->src))
		stage_enter(skb, STAGE_APART, packet, SIDE_EGRESS);
	return TC_NEXT;
}

static __always_inline int egress_packet(struct __sk_buff *skb, const struct packet *packet)
{
	struct found found; /* all of it would be written twice */
	__u32 now;

	switch (connection_find(packet, SIDE_EGRESS, &found)) {
	case FOUND:
		break;
	case FOUND_NOTHING:
		look_back(skb, packet, SIDE_EGRESS);
		return egress_other(skb, packet);
	default:
		count(COUNTER_STALE);
		stage_enter(skb, STAGE_STALE, packet, SIDE_EGRESS);
		return TC_DROP;
	}
	now = now_ticks();
	if (is_expired(found.copy.life, now))
		return egress_other(skb, packet);
	if (life_age(found.copy.life, now) > REFRESH_TICKS)
		stage_enter(skb, STAGE_REFRESH, packet, SIDE_EGRESS);
	return found.role == ROLE_REPLY ? egress_reply(skb, packet, &found, now)
					: egress_request(skb, packet, &found, now);
}

/* A packet that was read. */
static __always_inline int egress_by(struct __sk_buff *skb, const struct packet *packet,
				     enum reading reading)
{
	switch (reading) {
	case READ_DONE:
		return egress_packet(skb, packet);
	case READ_ICMP:
		stage_enter(skb, STAGE_ICMP, packet, SIDE_EGRESS);
		return TC_NEXT;
	case READ_SHORT:
		stage_headers(skb, packet->ip, SIDE_EGRESS);
		return TC_NEXT;
	default:
		return TC_NEXT;
	}
}

/* A plain packet that is worth a look. */
static __always_inline int egress_look(struct __sk_buff *skb, __u32 at)
{
	struct packet packet;

	return is_tagged(skb) ? TC_NEXT : egress_by(skb, &packet, packet_read(skb, at, &packet));
}

/* A stage: begin again, or where the headers are was found out. */
int egress_again(struct __sk_buff *skb)
{
	struct packet packet = {};

	return egress_by(skb, &packet, stage_read(skb, &packet));
}

/* A plain packet: one that was translated as it came in is what the stack makes of a request. */
static __always_inline int egress_plain(struct __sk_buff *skb, const struct glance *glance,
					__u32 at)
{
	bool is_worth = egress_is_worth(glance);

	if (was_translated(skb)) {
		translated_forget(skb);
		if (setting(SETTING_FAST_PATH) && !is_tagged(skb))
			stage_way(skb, at, 0, is_worth);
	}
	return is_worth ? egress_look(skb, at) : TC_NEXT;
}

int egress(struct __sk_buff *skb)
{
	const struct glance *glance;

	if (was_translated_out(skb))
		return TC_NEXT;
	if (skb->protocol != ETH_P_FAMILY)
		return hand_over(skb, ENTRY_EGRESS);
	glance = glance_at(skb, ETH_HLEN);
	if (glance)
		return egress_plain(skb, glance, ETH_HLEN);
	translated_forget(skb);
	stage_headers(skb, ETH_HLEN, SIDE_EGRESS);
	return TC_NEXT;
}

/* For devices without a link-layer header: few, so that all that is worth a look is a stage's. */
int egress_l3(struct __sk_buff *skb)
{
	const struct glance *glance;

	if (was_translated_out(skb))
		return TC_NEXT;
	translated_forget(skb);
	if (skb->protocol != ETH_P_FAMILY)
		return hand_over(skb, ENTRY_EGRESS_L3);
	glance = glance_at(skb, 0);
	if (!glance || egress_is_worth(glance))
		stage_headers(skb, 0, SIDE_EGRESS);
	return TC_NEXT;
}
