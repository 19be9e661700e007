/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ports that stand for clients whom a backend must not see (rule 9): free ones of a range that
 * neither sockets nor NodePorts have by themselves, then any that is free, then the one whose
 * connection has been closed for the longest time.
 */
#ifndef PYPROXY_SOURCE_H
#define PYPROXY_SOURCE_H

#include "table.h"

/* How many ports of the range are tried, and as many of all others. */
#define SOURCE_TRIES 16

/* What bpf_sk_lookup_udp() wants of either family: struct bpf_sock_tuple. */
struct tuple {
	struct addr src;
	struct addr dst;
	__be16 ports[2];
};

/* A port that can be had from another connection. */
struct closed {
	__u64 life; /* of that connection */
	__u32 number; /* of it */
	__u32 age; /* how long it has been over, in ticks; 0: it was not */
	__u16 port;
};

#define AGE_FREE 0xffffffff /* nobody needs it, not even the backend */

/* For how long a backend that closed first remembers both ends (60 s, in ticks). */
#define TIME_WAIT_TICKS 3577

/* Return whether somebody else needs a port of the node: a service, or whom an operator named. */
static __always_inline bool is_kept(const struct endpoint *source)
{
	return is_reserved(source->port) || is_frontend_marked(source);
}

/* Return whether a socket of the node would lose what the backend answers to this source. */
static __always_inline bool is_sockets(struct __sk_buff *skb, const struct connection *record)
{
	struct tuple tuple = {
		.src = record->backend.addr,
		.dst = record->source.addr,
		.ports = { be16(record->backend.port), be16(record->source.port) },
	};
	struct bpf_sock_tuple *of = (void *)&tuple;
	struct bpf_sock *sk;

	/* nothing finds those of SCTP */
	if (record->proto == IPPROTO_SCTP)
		return false;
	if (record->proto == IPPROTO_TCP)
		sk = bpf_skc_lookup_tcp(skb, of, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(skb, of, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/*
 * Return the port to try: first the one that this client had before, if it was there before, so
 * that its backend knows a new connection from an old one (RFC 6191); then any of the range.
 */
static __always_inline __u16 source_draw(const struct connection *record, int i)
{
	__u32 first = setting(SETTING_SOURCE_PORT_FIRST), many = setting(SETTING_SOURCE_PORT_COUNT);
	__u32 client = addr_fold(&record->client.addr) ^ record->client_port << 16;

	/* it keeps the client's, in every try */
	if (record->proto == IPPROTO_SCTP)
		return record->client_port;
	if (!i)
		return first + (hash16(client ^ setting(SETTING_SOURCE_SEED)) * many >> 16);
	if (i < SOURCE_TRIES)
		return first + random_below(many);
	return random_port();
}

/* Return for how long a connection has been over, as a new one of a client counts it. */
static __always_inline __u32 closed_age(const struct connection *record,
					const struct connection *other, __u64 life, __u32 now)
{
	if (!life ||
	    (is_expired(life, now) && (life & LIFE_UDP || life_age(life, now) > TIME_WAIT_TICKS)))
		return AGE_FREE;
	/* its backend knows the client's new connection from the old one */
	if (life & LIFE_READY && is_over((__u32)life) &&
	    endpoint_equal(&other->client, &record->client))
		return AGE_FREE;
	if (!is_expired(life, now) && (!(life & LIFE_READY) || !is_spent(life, now)))
		return 0;
	return life_age(life, now) + 1;
}

/* Note the connection that stands in the way, if it has been over for longest. */
static __always_inline void closed_note(const struct connection *record, __u32 number,
					struct closed *oldest, __u32 now)
{
	const struct connection *other = connections.lookup(&number);
	__u64 life;
	__u32 age;

	if (!other)
		return;
	life = *(volatile __u64 *)&other->life;
	age = closed_age(record, other, life, now);
	if (age <= oldest->age)
		return;
	oldest->life = life;
	oldest->number = number;
	oldest->age = age;
	oldest->port = record->source.port;
}

/* Make what answers a source lead to the record. Return 0 or why it cannot. */
static __always_inline long source_insert(struct connection *record, __u32 number, __u32 *other)
{
	struct nat_entry to = { .connection = number, .role = ROLE_REPLY };
	struct nat_key key = reply_in(record);
	long failed = nat.insert(&key, &to);
	struct nat_entry *entry;

	if (failed == -EEXIST) {
		entry = nat.lookup(&key);
		if (entry)
			*other = entry->connection;
	}
	return failed;
}

/* Take the port that stood for the client of a connection that is over. */
static __always_inline bool source_take(struct connection *record, __u32 number,
					struct closed *from, __u32 now)
{
	struct nat_key key;
	__u32 other;

	record->source.port = from->port;
	if (from->life & LIFE_READY) {
		connection_end(from->number, from->life, now);
	} else {
		key = reply_in(record);
		entry_drop(&key, from->number);
	}
	if (source_insert(record, number, &other))
		return false;
	if (from->age != AGE_FREE)
		count(COUNTER_SOURCE_TAKEN);
	return true;
}

/* Choose a port of the source's address; its replies lead to the record then. */
static __always_inline bool source_port(struct __sk_buff *skb, struct connection *record,
					__u32 number, __u32 now)
{
	struct closed oldest = {};

#pragma nounroll
	for (int i = 0; i < 2 * SOURCE_TRIES; i++) {
		__u32 other = 0;
		long failed;

		record->source.port = source_draw(record, i);
		if (is_kept(&record->source) || is_sockets(skb, record))
			continue;
		failed = source_insert(record, number, &other);
		if (!failed)
			return true;
		if (failed != -EEXIST)
			return false;
		closed_note(record, other, &oldest, now);
		if (oldest.age == AGE_FREE)
			break;
	}
	return oldest.age && source_take(record, number, &oldest, now);
}

#endif /* PYPROXY_SOURCE_H */
