/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a service has no endpoints, and its client hears that at once: RST for TCP, port
 * unreachable for UDP (parity A8.1). The packet itself is turned around into the answer.
 */
#include "icmp.h"
#include "translate.h"

#define QUOTE_BYTES (ICMP_BYTES - ICMP_HEADER_BYTES - (__u32)sizeof(struct ip_header))
#define SUM_BYTES 480 /* bpf_csum_diff() takes 512 at most */

/* Keep the compiler from drawing conclusions that the verifier cannot follow. */
#define bounded(value) asm volatile("" : "+r"(value))

/* Send the packet back to where it came from. */
static __always_inline int send_back(struct __sk_buff *skb, __u32 at)
{
	__u8 macs[12], swapped[12];

	if (at == ETH_HLEN) {
		if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
			return TC_DROP;
		__builtin_memcpy(swapped, macs + 6, 6);
		__builtin_memcpy(swapped + 6, macs, 6);
		if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0))
			return TC_DROP;
	}
	count(COUNTER_PACKET_REFUSED);
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * Return whether the packet's checksum is left to the device that sends it, so that its field
 * holds the pseudo-header's sum: a change of what it covers leaves it alone then. The field is
 * as it was afterwards: an answer may quote it.
 */
static __always_inline bool is_checksum_left(struct __sk_buff *skb, __u32 field)
{
	__u16 before = 0, after = 0;

	bpf_skb_load_bytes(skb, field, &before, sizeof(before));
	bpf_l4_csum_replace(skb, field, 0, 1, 0);
	bpf_skb_load_bytes(skb, field, &after, sizeof(after));
	bpf_skb_store_bytes(skb, field, &before, sizeof(before), 0);
	return before == after;
}

/* Return the segment that refuses a SYN (RFC 9293 3.10.7.1), which had `length` bytes of data. */
static __always_inline struct tcp_header reset_of(const struct packet *packet, __be32 seq,
						  __u32 length)
{
	struct tcp_header reset = {
		.src_port = be16(packet->dst.port),
		.dst_port = be16(packet->src.port),
		.ack = be32(be32(seq) + 1 + length),
		.words = sizeof(reset) / 4 << 4,
		.flags = TCP_RST | TCP_ACK,
	};

	return reset;
}

static __always_inline int refuse_tcp(struct __sk_buff *skb, const struct packet *packet,
				      __u32 total)
{
	__u32 end = packet->ip + sizeof(struct ip_header) + sizeof(struct tcp_header);
	__u32 field = packet->transport + TCP_CHECK;
	const struct addr *src = &packet->dst.addr, *dst = &packet->src.addr;
	struct tcp_header tcp, reset;
	struct ip_header ip;
	bool left;
	__u32 sum;

	if (bpf_skb_load_bytes(skb, packet->transport, &tcp, sizeof(tcp)))
		return TC_DROP;
	/* with options before it the header moves, and the device would sum from another place */
	left = packet->transport == packet->ip + sizeof(ip) && is_checksum_left(skb, field);
	reset = reset_of(packet, tcp.seq,
			 total - (packet->transport - packet->ip) - (tcp.words >> 4) * 4);
	sum = pseudo_sum(src, dst, IPPROTO_TCP, sizeof(reset));
	if (left)
		reset.check = checksum_of(sum);
	else
		reset.check = ~checksum_of(
			bpf_csum_diff(NULL, 0, (__be32 *)&reset, sizeof(reset), sum));
	ip = ip_answer(src, dst, IPPROTO_TCP, sizeof(reset));
	if (bpf_skb_change_tail(skb, end, 0) ||
	    bpf_skb_store_bytes(skb, packet->ip, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, packet->ip + sizeof(ip), &reset, sizeof(reset),
				BPF_F_RECOMPUTE_CSUM))
		return TC_DROP;
	return send_back(skb, packet->ip);
}

/* Put port unreachable, with what it quotes, into `error`. Return its length, 0 if it fails. */
static __always_inline __u32 error_write(struct __sk_buff *skb, const struct packet *packet,
					 __u32 total, struct scratch *error)
{
	__u64 quoted = total < QUOTE_BYTES ? total : QUOTE_BYTES;
	__u32 *word = (__u32 *)error->bytes;
	__u32 length, padded, kept, sum;

	bounded(quoted);
	if (quoted < sizeof(struct ip_header))
		return 0;
	bounded(quoted);
	if (quoted > QUOTE_BYTES ||
	    bpf_skb_load_bytes(skb, packet->ip, error->bytes + ICMP_HEADER_BYTES, quoted))
		return 0;
	length = ICMP_HEADER_BYTES + quoted;
	padded = (length + 3) & ~3U;
	/* what an odd length leaves of its last word */
	kept = be32(~(0xffffffffU >> 8 * (length & 3)));
	word[0] = be32(ICMP_UNREACHABLE << 24 | ICMP_PORT << 16);
	word[1] = 0;
	*(__u32 *)(error->bytes + (length & ~3U)) &= kept;
	sum = icmp_pseudo_sum(&packet->dst.addr, &packet->src.addr, length);
#pragma unroll
	for (__u32 from = 0; from < 3 * SUM_BYTES; from += SUM_BYTES) {
		__u64 left = padded > from ? padded - from : 0;

		bounded(left);
		if (left > SUM_BYTES)
			left = SUM_BYTES;
		bounded(left);
		left &= 511; /* changes nothing; verifiers before 6.8 take it for negative else */
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(error->bytes + from), left, sum);
	}
	*(__u16 *)(error->bytes + 2) = ~checksum_of(sum);
	return length;
}

static __always_inline int refuse_udp(struct __sk_buff *skb, const struct packet *packet,
				      __u32 total)
{
	const struct addr *src = &packet->dst.addr, *dst = &packet->src.addr;
	bool left = is_checksum_left(skb, packet->transport + UDP_CHECK);
	__u32 zero = 0;
	__u64 length;
	__u16 *field;
	struct scratch *error = scratch.lookup(&zero);
	struct ip_header ip;

	if (!error)
		return TC_DROP;
	length = error_write(skb, packet, total, error);
	if (length < ICMP_HEADER_BYTES)
		return TC_DROP;
	/*
	 * The device writes a checksum where UDP's was, in a word that nobody reads: with the
	 * pseudo-header's sum there before, the message's own is right for what the device writes.
	 */
	field = (__u16 *)(error->bytes + UDP_CHECK);
	if (left)
		*field = checksum_of(icmp_pseudo_sum(src, dst, length));
	bounded(length);
	if (length > ICMP_BYTES)
		return TC_DROP;
	ip = ip_answer(src, dst, IPPROTO_ICMP_FAMILY, length);
	if (bpf_skb_change_tail(skb, packet->ip + sizeof(ip) + length, 0) ||
	    bpf_skb_store_bytes(skb, packet->ip, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, packet->ip + sizeof(ip), error->bytes, length,
				BPF_F_RECOMPUTE_CSUM))
		return TC_DROP;
	return send_back(skb, packet->ip);
}

int refuse(struct __sk_buff *skb)
{
	__u32 at = stage_ip(skb), total;
	struct packet packet = {};
	struct ip_header ip;

	if (stage_read(skb, &packet) != READ_DONE || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return TC_DROP;
	total = ip_total(&ip);
	if (total > skb->len - at)
		total = skb->len - at;
	/* a header that says that there is no other one: no kernel would answer that */
	if (total < packet.transport - at + sizeof(struct udp_header))
		return TC_DROP;
	return packet.proto == IPPROTO_TCP ? refuse_tcp(skb, &packet, total)
					   : refuse_udp(skb, &packet, total);
}
