/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: an ICMP message comes in or leaves. An error about a packet that this node has
 * translated quotes it as it was then; who sent it, or what sends for it, has to find its own
 * (RFC 5508 4.2). A redirect that this node sends speaks of a backend: the client would install a
 * route to it for the service (rule 2; netfilter drops such redirects as well).
 */
#include "icmp.h"
#include "ends.h"
#include "headers.h"

/*
 * Return whether the sender of an error that leaves may not be seen: it is the end that the
 * quoted packet went to, or a router on the way there that its source has no way to, or else this
 * node would not have given the packet one of its addresses.
 */
static __always_inline bool is_hidden(const struct found *found, const struct packet *message,
				      const struct packet *answer)
{
	if (addr_equal(&message->src.addr, &answer->src.addr))
		return true;
	return found->copy.life & LIFE_SOURCE_READY && node_address_find(&message->src.addr) < 0;
}

/* Return the quoted packet's checksum with other ends; one that is not there, or not used, stays. */
static __always_inline __u16 quoted_check(const struct packet *about, __u16 check, __u64 diff)
{
	__u16 fixed = ~checksum_of((__u64)(__u16)~check + diff);

	if (about->proto == IPPROTO_TCP)
		return fixed;
	if (!check)
		return 0;
	return fixed ? fixed : 0xffff;
}

/*
 * Give the packet that is quoted other ends. Put into `change` by how much the sum of the message
 * changes. Return 0 or what failed.
 */
static __always_inline long quote_translate(struct __sk_buff *skb, const struct packet *about,
					    const struct endpoint *src, const struct endpoint *dst,
					    __u32 *change)
{
	__u32 diff = sum_fold(addr_diff(&about->src.addr, &src->addr) +
			      addr_diff(&about->dst.addr, &dst->addr));
	__u32 ports = port_diff(about->src.port, src->port) + port_diff(about->dst.port, dst->port);
	__u32 at = about->transport + (about->proto == IPPROTO_TCP ? TCP_CHECK : UDP_CHECK);
	struct ip_ends ends = {
		.src = src->addr,
		.dst = dst->addr,
		.ports = { be16(src->port), be16(dst->port) },
	};
	__u16 check = 0, fixed;

	*change = sum_fold((__u64)ports + quoted_change(diff));
	ip_ends_check(&ends, about->check, diff);
	if (ends_write(skb, about, &ends))
		return -1;
	/* the first 8 bytes are always there: TCP's checksum may not be; SCTP's covers no ends */
	if (about->proto == IPPROTO_SCTP || bpf_skb_load_bytes(skb, at, &check, sizeof(check)))
		return 0;
	fixed = quoted_check(about, check, (__u64)diff + ports);
	*change = sum_fold((__u64)*change + fixed + (0xffff - check));
	return bpf_skb_store_bytes(skb, at, &fixed, sizeof(fixed), 0);
}

/* Give the message other ends, and put its checksum right. Return 0 or what failed. */
static __always_inline long message_translate(struct __sk_buff *skb, const struct packet *message,
					      const struct addr *src, const struct addr *dst,
					      __u32 change)
{
	__u32 diff = sum_fold(addr_diff(&message->src.addr, src) +
			      addr_diff(&message->dst.addr, dst));
	__u32 at = message->transport + ICMP_CHECK;

	if (icmp_pseudo_fix(skb, at, diff) || bpf_l4_csum_replace(skb, at, 0, change, 0))
		return -1;
	return addresses_write(skb, message, src, dst, diff);
}

/* Translate an error about a packet of a connection. */
static __always_inline int error_translate(struct __sk_buff *skb, const struct packet *message,
					   const struct packet *about, const struct found *found,
					   __u32 side)
{
	struct packet answer = packet_answer(about);
	struct ends ends = ends_of(found, &answer, side);
	struct addr src = message->src.addr;
	__u32 change = 0;

	if (side == SIDE_EGRESS && is_hidden(found, message, &answer))
		src = ends.src.addr;
	count(COUNTER_PACKET_ERROR);
	translated_note(skb, side);
	if (quote_translate(skb, about, &ends.dst, &ends.src, &change) ||
	    message_translate(skb, message, &src, &ends.dst.addr, change))
		return TC_DROP;
	return translated_go(skb, message, found, side);
}

int icmp(struct __sk_buff *skb)
{
	struct packet message = {}, about = {}, answer;
	__u32 side = stage_side(skb), at;
	struct headers headers = {};
	struct found found = {};
	bool is_redirect;
	__u8 type;

	if (stage_read(skb, &message) != READ_ICMP ||
	    bpf_skb_load_bytes(skb, message.transport, &type, sizeof(type)))
		return TC_NEXT;
	is_redirect = type == ICMP_REDIRECT && side == SIDE_EGRESS;
	if (!is_redirect && !icmp_is_error(type))
		return TC_NEXT;
	at = is_redirect ? redirected(skb, message.transport)
			 : message.transport + ICMP_HEADER_BYTES;
	if (!headers_find(skb, at, &headers) || !headers_read(skb, at, &headers, &about))
		return TC_NEXT;
	answer = packet_answer(&about);
	if (connection_find(&answer, side, &found) != FOUND)
		return TC_NEXT;
	if (is_redirect) {
		count(COUNTER_PACKET_REDIRECT);
		return TC_DROP;
	}
	/* who is told of a packet is who has sent it; anything else is made up (RFC 5508 4.2) */
	if (!addr_equal(&message.dst.addr, &about.src.addr) || !is_translatable(&found, side))
		return TC_NEXT;
	return error_translate(skb, &message, &about, &found, side);
}
