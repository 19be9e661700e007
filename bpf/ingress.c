/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tc ingress of every device: what clients send to a frontend goes to its backend. Everything
 * else passes to the next program.
 */
#include "entry.h"
#include "state.h"
#include "translate.h"
#include "way.h"

/* The connection that a packet belongs to is of no use to it. */
static __always_inline int ingress_reopen(struct __sk_buff *skb, const struct packet *packet)
{
	/* in mid-stream it is none of ours */
	if (!may_open(packet))
		return TC_NEXT;
	stage_enter(skb, STAGE_REOPEN, packet, SIDE_INGRESS);
	return TC_DROP;
}

/* A packet that belongs to no connection. */
static __always_inline int ingress_other(struct __sk_buff *skb, const struct packet *packet)
{
	if (!may_open(packet)) {
		if (is_between_busy(&packet->src, &packet->dst))
			stage_enter(skb, STAGE_ASIDE, packet, SIDE_INGRESS);
		return TC_NEXT;
	}
	if (!is_frontend_marked(&packet->dst)) {
		stage_enter(skb, STAGE_DIRECT, packet, SIDE_INGRESS);
		return TC_NEXT;
	}
	stage_open(skb, packet, false);
	return TC_DROP;
}

/* What a client sends to a frontend. */
static __always_inline int ingress_request(struct __sk_buff *skb, const struct packet *packet,
					   struct found *found, __u32 now)
{
	struct endpoint client = inner_client(&found->copy);
	struct endpoint backend = found->copy.backend;

	if (!is_usable(found, packet, now))
		return ingress_reopen(skb, packet);
	syn_note(skb, found, packet);
	life_note(found, life_after_request((__u32)found->copy.life, packet), now);
	count(COUNTER_PACKET_IN);
	traffic_note(skb, found->copy.service, packet->ip);
	forward_mark(skb, found->copy.life);
	return packet_translate_in(skb, packet, &client, &backend);
}

/* What a backend answers to the address of this node that stands for a client. */
static __always_inline int ingress_reply(struct __sk_buff *skb, const struct packet *packet,
					 struct found *found, __u32 now)
{
	struct endpoint client = inner_client(&found->copy);

	if (found->copy.life & LIFE_OWN)
		life_note(found, life_after_reply((__u32)found->copy.life, packet), now);
	count(COUNTER_PACKET_IN);
	return packet_translate_in(skb, packet, &packet->src, &client);
}

static __always_inline int ingress_packet(struct __sk_buff *skb, const struct packet *packet)
{
	struct found found; /* all of it would be written twice */
	bool expired;
	__u32 now;

	switch (connection_find(packet, SIDE_INGRESS, &found)) {
	case FOUND:
		break;
	case FOUND_NOTHING:
		look_back(skb, packet, SIDE_INGRESS);
		return ingress_other(skb, packet);
	default:
		count(COUNTER_STALE);
		stage_enter(skb, STAGE_STALE, packet, SIDE_INGRESS);
		return TC_DROP;
	}
	now = now_ticks();
	expired = is_expired(found.copy.life, now);
	/* what answers does not keep open what lets it pass: pass.c */
	if (!expired && found.role != ROLE_PASS && life_age(found.copy.life, now) > REFRESH_TICKS)
		stage_enter(skb, STAGE_REFRESH, packet, SIDE_INGRESS);
	if (found.role == ROLE_REQUEST)
		return ingress_request(skb, packet, &found, now);
	if (expired)
		return ingress_other(skb, packet);
	return found.role == ROLE_REPLY ? ingress_reply(skb, packet, &found, now) : TC_NEXT;
}

/* A packet that was read. */
static __always_inline int ingress_by(struct __sk_buff *skb, const struct packet *packet,
				      enum reading reading)
{
	switch (reading) {
	case READ_DONE:
		return ingress_packet(skb, packet);
	case READ_ICMP:
		stage_enter(skb, STAGE_ICMP, packet, SIDE_INGRESS);
		return TC_NEXT;
	case READ_SHORT:
		stage_headers(skb, packet->ip, SIDE_INGRESS);
		return TC_NEXT;
	default:
		return TC_NEXT;
	}
}

/* A plain packet that is worth a look. */
static __always_inline int ingress_look(struct __sk_buff *skb, __u32 at)
{
	struct packet packet;
	enum reading reading;
	bool is_ours = is_for_us(skb);

	if (!is_ours && !is_for_another(skb))
		return TC_NEXT;
	reading = packet_read(skb, at, &packet);
	if (is_ours) {
		if (reading == READ_DONE && may_be_fast(&packet))
			stage_fast(skb, &packet, true);
		return ingress_by(skb, &packet, reading);
	}
	if (reading == READ_DONE && is_busy_marked(&packet.dst))
		stage_enter(skb, STAGE_BRIDGED, &packet, SIDE_INGRESS);
	return TC_NEXT;
}

/* A plain packet that is not: but on the fast path it may be an answer to a client that is seen. */
static __always_inline int ingress_rest(struct __sk_buff *skb, const struct glance *glance)
{
	struct endpoint src = end_at(&glance->ip.src, glance->src_port);
	struct packet packet;

	if (setting(SETTING_FAST_PATH) && is_busy_marked(&src) && is_for_us(skb) &&
	    packet_read(skb, ETH_HLEN, &packet) == READ_DONE && may_be_fast(&packet))
		stage_fast(skb, &packet, false);
	return TC_NEXT;
}

/* A stage: begin again, or where the headers are was found out. */
int ingress_again(struct __sk_buff *skb)
{
	struct packet packet = {};

	return ingress_by(skb, &packet, stage_read(skb, &packet));
}

int ingress(struct __sk_buff *skb)
{
	const struct glance *glance;

	translated_out_forget(skb);
	if (skb->protocol != ETH_P_FAMILY)
		return hand_over(skb, ENTRY_INGRESS);
	glance = glance_at(skb, ETH_HLEN);
	if (glance)
		return ingress_is_worth(glance) ? ingress_look(skb, ETH_HLEN)
						: ingress_rest(skb, glance);
	stage_headers(skb, ETH_HLEN, SIDE_INGRESS);
	return TC_NEXT;
}

/* For devices without a link-layer header: few, so that all that is worth a look is a stage's. */
int ingress_l3(struct __sk_buff *skb)
{
	const struct glance *glance;

	translated_out_forget(skb);
	if (skb->protocol != ETH_P_FAMILY)
		return hand_over(skb, ENTRY_INGRESS_L3);
	glance = glance_at(skb, 0);
	if (!glance || ingress_is_worth(glance))
		stage_headers(skb, 0, SIDE_INGRESS);
	return TC_NEXT;
}
