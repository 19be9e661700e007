/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a connection of the packet path. */
#ifndef PYPROXY_OPEN_H
#define PYPROXY_OPEN_H

#include "table.h"
#include "translate.h"

/* How many pairs of backend and source port are tried for a new connection. */
#define OPEN_TRIES 10

/* What the stage that picks tells the one that makes the connection, on one CPU. */
BPF_PERCPU_ARRAY(picks, struct pick, 1);

#define TWIN 1 /* no error: those of the kernel are negative */

/* Return by which uplink the answers to a packet have to leave, 0 if routes decide (rule 15). */
static __always_inline __u32 uplink_of(const struct __sk_buff *skb)
{
	const struct device *device = device_of(skb->ifindex);

	if (!(setting(SETTING_POLICY) & POLICY_SAME_UPLINK) || !device ||
	    !(device->flags & DEVICE_UPLINK))
		return 0;
	return device->route;
}

/* Return whose a client is, by the configured detector (parity A9.14). */
static __always_inline enum client client_of(const struct __sk_buff *skb, const struct addr *client)
{
	struct cidr_key key = { .length = 32 * ADDR_WORDS, .addr = *client };

	switch (setting(SETTING_DETECTOR)) {
	case DETECTOR_CIDRS:
		return local_cidrs.lookup(&key) ? CLIENT_POD : CLIENT_OTHER;
	case DETECTOR_DEVICES:
		return device_flags(skb->ifindex) & DEVICE_PODS ? CLIENT_POD : CLIENT_OTHER;
	default:
		return CLIENT_OTHER;
	}
}

/*
 * Return whether kube-proxy would masquerade (parity A9.1-A9.8). Without a detector it never does
 * for a ClusterIP; we do for who comes by an uplink, or no answer would come back.
 */
static __always_inline bool is_masqueraded(const struct __sk_buff *skb, const struct pick *picked)
{
	if (picked->target.kind != KIND_CLUSTER_IP)
		return !(picked->policies & SERVICE_EXTERNAL_LOCAL);
	if (setting(SETTING_POLICY) & POLICY_MASQUERADE_ALL)
		return true;
	if (setting(SETTING_DETECTOR))
		return picked->client != CLIENT_POD;
	return device_flags(skb->ifindex) & DEVICE_UPLINK;
}

/*
 * Return whether the backend must see an address of this node: it is the client itself, which
 * would answer itself, or elsewhere, from where its answers to a stranger would not come back. A
 * backend on this node sees who asks, unless somebody wants it otherwise.
 */
static __always_inline bool wants_source(struct __sk_buff *skb, const struct packet *packet,
					 const struct pick *picked)
{
	if (addr_equal(&packet->src.addr, &picked->backend.addr))
		return true;
	if (!picked->target.service || !is_masqueraded(skb, picked))
		return false;
	return !(picked->flags & BACKEND_LOCAL) ||
	       setting(SETTING_POLICY) & (POLICY_MASQUERADE_ALL | POLICY_HIDE_CLIENTS);
}

/* Return whether another CPU has made a connection between the same client and frontend. */
static __always_inline bool is_twin(__u32 number, const struct packet *packet)
{
	const struct connection *other = connections.lookup(&number);

	return other && endpoint_equal(&other->client, &packet->src) &&
	       endpoint_equal(&other->frontend, &packet->dst);
}

/*
 * Make the replies lead to the record, by another backend or another port of the client's where
 * they lead to another connection already (rules 4 and 5). Return 0, TWIN when another CPU has
 * just done so for the same connection, with what stands in this record too, or what failed.
 */
static __always_inline long reply_insert(struct connection *record, __u32 number,
					 const struct packet *packet, struct pick *picked,
					 bool clash, __u32 now)
{
	struct nat_entry to = { .connection = number, .role = ROLE_REPLY };
	struct nat_key key;
	long failed = -EEXIST;
	__u32 other = 0;

	for (int i = 0; i < OPEN_TRIES; i++) {
		if (i == 1 && picked->target.service && !picked->is_affine && !clash)
			backend_pick(picked, NULL);
		else if ((i || clash) && packet->proto == IPPROTO_SCTP)
			return -EADDRINUSE;
		else if (i || clash)
			record->client_port = random_port();
		record->backend = picked->backend;
		/* a client that talks to itself from port to port: both ways would look alike */
		if (record->client_port == picked->backend.port &&
		    addr_equal(&packet->src.addr, &picked->backend.addr))
			continue;
		key = reply_out(record);
		failed = entry_insert(&key, &to, &other, now);
		if (failed != -EEXIST)
			break;
		if (is_twin(other, packet))
			return TWIN;
	}
	if (record->client_port != packet->src.port)
		count(COUNTER_PACKET_CLASH);
	return failed;
}

/* Make everything lead to the record. Return 0 or what failed. */
static __always_inline long entries_insert(struct connection *record, __u32 number, __u32 flags,
					   __u32 now)
{
	struct nat_entry to = { .connection = number, .role = ROLE_REQUEST };
	struct nat_key key = request_out(record);
	__u32 other = 0;
	long failed = 0;

	if (flags & LIFE_SOURCE_WANTED)
		failed = nat.update(&key, &to);
	if (failed)
		return failed;
	*(volatile __u64 *)&record->life = life_at(flags | LIFE_READY, now);
	key = request_in(record);
	return entry_insert(&key, &to, &other, now);
}

/* Return what happens to a packet whose connection could not be made. */
static __always_inline int connection_failed(struct __sk_buff *skb, const struct packet *packet,
					     long failed)
{
	/* another CPU that was faster has left the connection that this packet finds now */
	if (failed == -EEXIST || failed == TWIN)
		stage_again(skb, SIDE_INGRESS);
	else if (failed == -EADDRINUSE)
		count_trouble(COUNTER_SOURCE_EXHAUSTED, MOMENT_SOURCE_EXHAUSTED);
	else
		count_trouble(COUNTER_INSERT_FAILED, MOMENT_INSERT_FAILED);
	return TC_DROP;
}

/* Make a connection to what was picked, and send the packet there. */
static __always_inline int connection_open(struct __sk_buff *skb, const struct packet *packet,
					   struct pick *picked, bool clash)
{
	__u32 now = now_ticks(), number = connection_claim(now);
	__u32 flags = LIFE_CLAIMED | life_marked() | (packet->proto == IPPROTO_UDP ? LIFE_UDP : 0);
	struct connection *record = connections.lookup(&number);
	struct endpoint client;
	long failed;
	int verdict;

	if (!number || !record)
		return TC_DROP;
	record_write(record, packet, picked);
	record->uplink = uplink_of(skb);
	record->syn_seq = upper_half(skb, packet, TCP_SEQ);
	failed = reply_insert(record, number, packet, picked, clash, now);
	/* with the backend that it got in the end */
	if (wants_source(skb, packet, picked))
		flags |= LIFE_SOURCE_WANTED;
	record->check = connection_check(record);
	if (!failed)
		failed = entries_insert(record, number, flags, now);
	client = inner_client(record);
	if (failed)
		connection_release(number, flags);
	/* the twin's requests may not lead anywhere yet, so that this one must not begin again */
	if (failed && (failed != TWIN || flags & LIFE_SOURCE_WANTED))
		return connection_failed(skb, packet, failed);
	if (!failed) {
		ends_mark(record, flags);
		count(COUNTER_PACKET_OPEN);
		begun_by_packet(picked->target.service);
	}
	count(COUNTER_PACKET_IN);
	traffic_note(skb, picked->target.service, packet->ip);
	verdict = packet_translate_in(skb, packet, &client, &picked->backend);
	/* at the end: nothing comes after it that verifiers would walk twice */
	forward_mark(skb, flags);
	return verdict;
}

#endif /* PYPROXY_OPEN_H */
