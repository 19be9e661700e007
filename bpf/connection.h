/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The connection table: what a record says, how long it lives, how it is found.
 * A record is copied once and checked (rule 7); its life changes by compare-and-exchange only.
 */
#ifndef PYPROXY_CONNECTION_H
#define PYPROXY_CONNECTION_H

#include "balance.h"
#include "clock.h"
#include "marks.h"
#include "packet.h"
#include "traffic.h"

/* How often a reader looks again when what it found was another connection's. */
#define FIND_TRIES 3

/* How old a record must be before a packet writes down that it came (1 s, in ticks). */
#define REFRESH_TICKS 60

#define LIFE_FIN (LIFE_FIN_CLIENT | LIFE_FIN_BACKEND)

/* What is used of a record: copies leave out what is spare. */
#define CONNECTION_BYTES __builtin_offsetof(struct connection, spare)

/* A connection that a packet belongs to: its number, its role, and its record, checked. */
struct found {
	__u32 number;
	__u32 role;
	struct connection copy;
};

/* Count an event that an operator has to hear of, and note when it was. */
static __always_inline void count_trouble(__u32 counter, __u32 moment)
{
	__u64 *when = moments.lookup(&moment);

	count(counter);
	if (when)
		*when = now_ticks();
}

/* Return the life of a record that was last seen at a time. */
static __always_inline __u64 life_at(__u32 flags, __u32 ticks)
{
	return (__u64)ticks << 32 | flags;
}

/* Return whether a TCP connection was reset, or closed by both ends. */
static __always_inline bool is_over(__u32 flags)
{
	return flags & LIFE_RESET || (flags & LIFE_FIN) == LIFE_FIN;
}

/* Return for how many ticks a connection that is in this state lives without packets. */
static __always_inline __u32 life_timeout(__u32 flags)
{
	if (flags & LIFE_UDP)
		return setting(flags & LIFE_ESTABLISHED ? SETTING_UDP_STREAM : SETTING_UDP);
	if (is_over(flags))
		return setting(SETTING_TCP_CLOSED);
	if (flags & LIFE_FIN)
		return setting(SETTING_TCP_CLOSE_WAIT);
	return setting(flags & LIFE_ESTABLISHED ? SETTING_TCP_ESTABLISHED : SETTING_TCP_OPENING);
}

/* Return how many ticks ago a record was last seen; a time yet to come is no time ago. */
static __always_inline __u32 life_age(__u64 life, __u32 now)
{
	__s32 age = now - (__u32)(life >> 32);

	return age < 0 ? 0 : age;
}

/* Return whether nobody needs a record any more. Costs nothing for one that was just seen. */
static __always_inline bool is_expired(__u64 life, __u32 now)
{
	__u32 age = life_age(life, now);

	return age > REFRESH_TICKS && age > life_timeout((__u32)life);
}

/*
 * Return whether a connection is over: its client may begin a new one on the same port. A
 * reset before the backend has answered is a refusal; a later one may be forged (rule 6).
 */
static __always_inline bool is_closed(__u64 life)
{
	return (life & LIFE_FIN) == LIFE_FIN || (life & (LIFE_RESET | LIFE_REPLIED)) == LIFE_RESET;
}

/* Return what a whole record has in `check`. */
static __always_inline __u32 connection_check(const struct connection *of)
{
	return endpoint_fold(&of->client) ^ (endpoint_fold(&of->frontend) << 1) ^
	       (endpoint_fold(&of->backend) << 2) ^ ((__u32)of->client_port << 8) ^ of->proto ^
	       of->service ^ 0x5eed5eed;
}

/* Return what a record whose source is whole has in `source_check`. */
static __always_inline __u32 connection_source_check(const struct connection *of)
{
	return endpoint_fold(&of->source) ^ of->check ^ 0xfeedf00d;
}

/* Return the client as the backend's node sees it: with the port it has there. */
static __always_inline struct endpoint inner_client(const struct connection *of)
{
	struct endpoint client = { .addr = of->client.addr, .port = of->client_port };

	return client;
}

/* Return LIFE_MARKED if requests are to be marked. No branch: verifiers walk each. */
static __always_inline __u32 life_marked(void)
{
	/* a mark has 32 bits: any but 0 carries over */
	return ((setting(SETTING_FORWARD_MARK) + 0xffffffff) >> 32) * LIFE_MARKED;
}

/*
 * Mark a request for netfilter's FORWARD, as a connection's life says: who does not want it does not
 * pay for it. No bit of others is touched.
 */
static __always_inline void forward_mark(struct __sk_buff *skb, __u64 life)
{
	if (life & LIFE_MARKED)
		skb->mark |= setting(SETTING_FORWARD_MARK);
}

/* Return the key of a packet from src to dst at one side. */
static __always_inline struct nat_key key_of(const struct endpoint *src, const struct endpoint *dst,
					     __u8 proto, __u8 side)
{
	struct nat_key key = {
		.src = src->addr,
		.dst = dst->addr,
		.src_port = src->port,
		.dst_port = dst->port,
		.proto = proto,
		.side = side,
	};

	return key;
}

/* The four keys that may lead to a connection, each as its packets look before translation. */
static __always_inline struct nat_key request_in(const struct connection *of)
{
	return key_of(&of->client, &of->frontend, of->proto, SIDE_INGRESS);
}

static __always_inline struct nat_key reply_out(const struct connection *of)
{
	struct endpoint client = inner_client(of);

	return key_of(&of->backend, &client, of->proto, SIDE_EGRESS);
}

static __always_inline struct nat_key request_out(const struct connection *of)
{
	struct endpoint client = inner_client(of);

	return key_of(&client, &of->backend, of->proto, SIDE_EGRESS);
}

static __always_inline struct nat_key reply_in(const struct connection *of)
{
	return key_of(&of->backend, &of->source, of->proto, SIDE_INGRESS);
}

/* Return whether a record says that packets from src to dst are its own in this role. */
static __always_inline bool is_of(const struct connection *of, __u32 role, __u32 side,
				  const struct packet *packet)
{
	struct endpoint client = inner_client(of);

	if (of->proto != packet->proto)
		return false;
	if (role == ROLE_REPLY)
		return endpoint_equal(&packet->src, &of->backend) &&
		       endpoint_equal(&packet->dst, side == SIDE_EGRESS ? &client : &of->source);
	if (side == SIDE_EGRESS)
		return endpoint_equal(&packet->src, &client) &&
		       endpoint_equal(&packet->dst, &of->backend);
	return endpoint_equal(&packet->src, &of->client) &&
	       endpoint_equal(&packet->dst, &of->frontend);
}

/* Copy a connection's record. Return false if it is being written or is nobody's. */
static __always_inline bool connection_copy(__u32 number, struct connection *copy)
{
	struct connection *record = connections.lookup(&number);

	if (!record)
		return false;
	__builtin_memcpy(copy, record, CONNECTION_BYTES);
	return copy->life & LIFE_READY && copy->check == connection_check(copy);
}

enum finding {
	FOUND,
	FOUND_NOTHING,
	FOUND_STALE, /* what was found was another's, again and again (rule 7) */
};

/* Find the connection that a packet belongs to at one side. */
static __always_inline enum finding connection_find(const struct packet *packet, __u32 side,
						    struct found *found)
{
	struct nat_key key = key_of(&packet->src, &packet->dst, packet->proto, side);

#pragma nounroll
	for (int i = 0; i < FIND_TRIES; i++) {
		struct nat_entry *entry = nat.lookup(&key);

		if (!entry)
			return FOUND_NOTHING;
		found->number = entry->connection;
		found->role = entry->role;
		if (connection_copy(found->number, &found->copy) &&
		    is_of(&found->copy, found->role, side, packet))
			return FOUND;
	}
	return FOUND_STALE;
}

/*
 * Change a record's life from what the copy says, and note that it was seen now. Return false
 * if somebody else has changed it first.
 */
static __always_inline bool life_change(struct found *found, __u32 flags, __u32 now)
{
	struct connection *record = connections.lookup(&found->number);
	__u64 old = found->copy.life, new = life_at(flags, now);

	if (!record || __sync_val_compare_and_swap(&record->life, old, new) != old)
		return false;
	found->copy.life = new;
	return true;
}

#endif /* PYPROXY_CONNECTION_H */
