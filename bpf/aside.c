/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a packet of a direct connection comes by the ends that a connection to a service has
 * between both hooks, since its backend sees an address of this node (rule 4). Nobody tracks the
 * direct one, so that it may be older and just not have been seen: as it leaves it would be taken
 * for the service's. That one goes by another port on this node from now on; neither its client nor
 * its backend sees that.
 */
#include "table.h"

/* How many ports are tried. */
#define ASIDE_TRIES 8

/* Make what leaves lead to the connection by another port, which the copy has then. */
static __always_inline bool port_take(struct found *found)
{
	struct nat_entry request = { .connection = found->number, .role = ROLE_REQUEST };
	struct nat_entry reply = { .connection = found->number, .role = ROLE_REPLY };
	struct nat_key key;

#pragma nounroll
	for (int i = 0; i < ASIDE_TRIES; i++) {
		found->copy.client_port = random_port();
		key = reply_out(&found->copy);
		if (nat.insert(&key, &reply))
			continue;
		key = request_out(&found->copy);
		if (!nat.update(&key, &request))
			return true;
		key = reply_out(&found->copy);
		nat.delete(&key);
	}
	return false;
}

/* Write the copy's port into the record. Whoever reads it half written finds no connection. */
static __always_inline void port_write(struct found *found)
{
	struct connection *record = connections.lookup(&found->number);

	if (!record)
		return;
	found->copy.check = connection_check(&found->copy);
	record->client_port = found->copy.client_port;
	record->source_check = connection_source_check(&found->copy);
	*(volatile __u32 *)&record->check = found->copy.check;
	ends_mark(record, (__u32)found->copy.life);
}

/* Make nothing lead to the connection by the port that it had. */
static __always_inline void port_leave(struct found *found, __u16 port)
{
	struct nat_key key;

	found->copy.client_port = port;
	key = reply_out(&found->copy);
	entry_drop(&key, found->number);
	key = request_out(&found->copy);
	entry_drop(&key, found->number);
}

/* Return whether a packet that comes in would be taken for a connection's, and is not its. */
static __always_inline bool is_mistaken(const struct found *found, const struct packet *packet,
					__u32 now)
{
	__u32 life = (__u32)found->copy.life;

	/* a client that begins something directly gets another port itself: direct.c */
	if (found->role != ROLE_REPLY && may_open(packet))
		return false;
	return life & LIFE_SOURCE_WANTED && !(life & LIFE_OWN) &&
	       !is_expired(found->copy.life, now);
}

int aside(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct found found = {};
	__u32 now = now_ticks();
	__u16 port;

	if (stage_read(skb, &packet) != READ_DONE || packet.proto == IPPROTO_SCTP ||
	    connection_find(&packet, SIDE_EGRESS, &found) != FOUND ||
	    !is_mistaken(&found, &packet, now))
		return TC_NEXT;
	/* who chooses the source or is here already has the record: this packet is sent again */
	if (found.copy.life & LIFE_SOURCE_CLAIMED ||
	    !life_change(&found, (__u32)found.copy.life | LIFE_SOURCE_CLAIMED, now))
		return TC_DROP;
	port = found.copy.client_port;
	if (port_take(&found)) {
		port_write(&found);
		port_leave(&found, port);
		count(COUNTER_PACKET_CLASH);
	}
	life_set(&found, 0, LIFE_SOURCE_CLAIMED, now);
	return TC_NEXT;
}
