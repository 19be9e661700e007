/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: the fast path. A packet of a connection whose way is known (way.h) gets both of its ends
 * at once and goes where the stack has sent the one before it. What lies in between is left out,
 * but for what any router does: the route's MTU, and the time to live. Whatever is not as it should
 * be goes by the stack.
 */
#include "route.h"
#include "translate.h"
#include "way.h"

/* How a packet goes on: where, and with which ends. */
struct going {
	struct way way;
	struct endpoint src;
	struct endpoint dst;
	__u32 service;
};

/*
 * Find the connection of a packet that comes in. To that of a client who is seen, answers lead only
 * as they leave.
 */
static __always_inline bool fast_find(const struct packet *packet, struct found *found)
{
	if (connection_find(packet, SIDE_INGRESS, found) == FOUND)
		return true;
	return connection_find(packet, SIDE_EGRESS, found) == FOUND && found->role == ROLE_REPLY &&
	       !(found->copy.life & LIFE_SOURCE_WANTED);
}

/* Say how a client's packet goes on. Return false if that is not known. */
static __always_inline bool request_going(const struct connection *copy, struct going *going)
{
	going->src = inner_client(copy);
	going->dst = copy->backend;
	if (!(copy->life & LIFE_SOURCE_WANTED))
		return true;
	going->src = copy->source;
	return copy->life & LIFE_SOURCE_READY &&
	       copy->source_check == connection_source_check(copy) &&
	       copy->source_epoch == epoch(SETTING_ADDRESS_EPOCH);
}

/* Say where a packet goes. Return false if that is not known. */
static __always_inline bool way_take(__u32 index, struct way *way)
{
	const struct way *from = ways.lookup(&index);

	if (!from)
		return false;
	__builtin_memcpy(way, from, __builtin_offsetof(struct way, seen));
	return way->ifindex && way->check == way_check(way);
}

/* Find out how a packet goes on. Return false if the stack has to be asked. */
static __always_inline bool fast_going(const struct packet *packet, struct found *found,
				       struct going *going)
{
	const struct connection *copy = &found->copy;
	__u32 now = now_ticks();

	if (!fast_find(packet, found) || found->role == ROLE_PASS)
		return false;
	/* once a second the stack is asked again */
	if (life_age(copy->life, now) > REFRESH_TICKS || !is_fast(copy->life, packet) ||
	    copy->way_epoch != epoch(SETTING_WAY_EPOCH))
		return false;
	going->service = copy->service;
	if (found->role == ROLE_REQUEST)
		return copy->life & LIFE_WAY_REQUEST && is_usable(found, packet, now) &&
		       request_going(copy, going) && way_take(copy->request_way, &going->way);
	going->src = copy->frontend;
	going->dst = copy->client;
	return copy->life & LIFE_WAY_REPLY && way_take(copy->reply_way, &going->way);
}

/* Return whether a packet may skip what the stack does with others that come by its device. */
static __always_inline bool may_skip(const struct __sk_buff *skb)
{
	return device_flags(skb->ifindex) & DEVICE_FAST && !skb->mark && !skb->vlan_present;
}

/* Write what changes in a packet's headers. */
static __always_inline bool headers_write(struct __sk_buff *skb, const struct way *way, __u8 ttl,
					  const struct ip_ends *ends)
{
	void *data = (void *)(long)skb->data;
	struct ip_header *ip = data + ETH_HLEN;

	if ((void *)ip + IP_ENDS + sizeof(*ends) > (void *)(long)skb->data_end)
		return false;
	__builtin_memcpy(data, way->dst, sizeof(way->dst) + sizeof(way->src));
	ip->ttl = ttl;
	__builtin_memcpy((void *)ip + IP_ENDS, ends, sizeof(*ends));
	return true;
}

/* Send a packet on. Return the verdict; TC_NEXT if nothing was done, since the stack has to. */
static __always_inline int fast_send(struct __sk_buff *skb, struct packet *packet,
				     const struct going *going)
{
	struct ip_ends ends;
	struct hop hop;
	__u8 ttl;

	if (!hop_read(skb, packet, &hop) || hop.ttl <= 1 || hop.length > going->way.mtu)
		return TC_NEXT;
	ttl = hop_count(skb, packet, &hop);
	if (ends_fix(skb, packet, &going->src, &going->dst, &ends) ||
	    !headers_write(skb, &going->way, ttl, &ends))
		return TC_DROP;
	count(COUNTER_PACKET_FAST);
	traffic_note(skb, going->service, ETH_HLEN);
	if (going->way.flags & DEVICE_PEER) {
		/* what is for a bridge; kernels before 6.16 do not forget it on the way */
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect_peer(going->way.ifindex, 0);
	}
	/* it leaves by a device with programs of ours */
	skb->tc_index = TRANSLATED_OUT;
	return bpf_redirect(going->way.ifindex, 0);
}

int fast(struct __sk_buff *skb)
{
	bool is_worth = skb->cb[2];
	struct packet packet = {};
	struct going going = {};
	struct found found;
	int verdict;

	if (stage_read(skb, &packet) == READ_DONE && may_skip(skb) &&
	    fast_going(&packet, &found, &going)) {
		verdict = fast_send(skb, &packet, &going);
		if (verdict != TC_NEXT)
			return verdict;
	}
	if (is_worth)
		stage_again(skb, SIDE_INGRESS);
	return TC_NEXT;
}
