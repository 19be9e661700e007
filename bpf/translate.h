/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting a packet's ends, with all checksums that cover them. */
#ifndef PYPROXY_TRANSLATE_H
#define PYPROXY_TRANSLATE_H

#include "packet.h"

/* Return by how much a checksum changes when one address takes another's place. */
static __always_inline __u64 addr_diff(const struct addr *from, const struct addr *to)
{
	return addr_sum(to) + ADDR_WORDS * 0xffffffffULL - addr_sum(from);
}

/* Return by how much a checksum changes when one port takes another's place. */
static __always_inline __u32 port_diff(__u16 from, __u16 to)
{
	return be16(to) + (0xffff - be16(from));
}

/* Return whether a packet's transport has no checksum that could make up for what changes. */
static __always_inline bool is_unsummed(const struct packet *packet)
{
	return packet->proto == IPPROTO_UDP && packet->flags & UDP_UNSUMMED;
}

/*
 * Put the transport's checksum right; one of UDP that is not used stays so (RFC 768), but what a
 * device has summed has to follow the ports. Fails for SCTP with other ports: its checksum is of
 * the whole packet, and no helper makes it.
 */
static __always_inline long transport_checksum_fix(struct __sk_buff *skb,
						   const struct packet *packet, __u32 addresses,
						   __u32 ports)
{
	bool is_tcp = packet->proto == IPPROTO_TCP;
	__u32 at = packet->transport + (is_tcp ? TCP_CHECK : UDP_CHECK);
	__u64 flags = is_tcp ? 0 : BPF_F_MARK_MANGLED_0;

	/* SCTP's covers neither addresses nor ports that stay */
	if (packet->proto == IPPROTO_SCTP) {
		packet_sum_fix(skb, addresses);
		return ports;
	}
	if (is_unsummed(packet)) {
		packet_sum_fix(skb, addresses);
		bpf_csum_update(skb, checksum_of(ports));
		return 0;
	}
	/* the pseudo-header's part apart: it alone stands in a checksum left to the device */
	if (bpf_l4_csum_replace(skb, at, 0, addresses, flags | BPF_F_PSEUDO_HDR))
		return -1;
	packet_sum_fix(skb, addresses);
	return ports && bpf_l4_csum_replace(skb, at, 0, ports, flags);
}

/* Write both ends into a packet's headers: in one piece unless something stands in between. */
static __always_inline long ends_write(struct __sk_buff *skb, const struct packet *packet,
				       struct ip_ends *ends)
{
	__u32 addresses = sizeof(*ends) - sizeof(ends->ports);

	if (packet->transport == packet->ip + sizeof(struct ip_header))
		return bpf_skb_store_bytes(skb, packet->ip + IP_ENDS, ends, sizeof(*ends), 0);
	return bpf_skb_store_bytes(skb, packet->ip + IP_ENDS, ends, addresses, 0) ||
	       bpf_skb_store_bytes(skb, packet->transport, (__u8 *)ends + addresses,
				   sizeof(ends->ports), 0);
}

/* Put the checksums right for other ends, and say what they look like in the packet. */
static __always_inline long ends_fix(struct __sk_buff *skb, const struct packet *packet,
				     const struct endpoint *src, const struct endpoint *dst,
				     struct ip_ends *ends)
{
	__u32 diff = sum_fold(addr_diff(&packet->src.addr, &src->addr) +
			      addr_diff(&packet->dst.addr, &dst->addr));
	__u32 ports = port_diff(packet->src.port, src->port) +
		      port_diff(packet->dst.port, dst->port);
	bool same = packet->src.port == src->port && packet->dst.port == dst->port;

	ends->src = src->addr;
	ends->dst = dst->addr;
	ends->ports[0] = be16(src->port);
	ends->ports[1] = be16(dst->port);
	ip_ends_check(ends, packet->check, diff);
	return transport_checksum_fix(skb, packet, diff, same ? 0 : ports);
}

/*
 * Give a packet other ends. Return the verdict: a packet that cannot be changed is dropped,
 * never sent on half translated.
 */
static __always_inline int packet_translate(struct __sk_buff *skb, const struct packet *packet,
					    const struct endpoint *src, const struct endpoint *dst)
{
	struct ip_ends ends;

	if (ends_fix(skb, packet, src, dst, &ends) || ends_write(skb, packet, &ends))
		return TC_DROP;
	return TC_NEXT;
}

/*
 * What skb->tc_index says of a packet that was translated as it came in, until it leaves by some
 * device or is received. It may come in twice, by a bridge's port and the bridge or by a bond's
 * device and the bond, and looks like a direct connection of the client's the second time. The
 * field is nobody's else: what read it (cls_tcindex, sch_dsmark) has left the kernel.
 */
#define TRANSLATED 0x7079

/*
 * The same of one that was translated as it left: a bridge or a bond hands it to a port, where it
 * leaves once more. It says so until it comes in somewhere else, perhaps in this very kernel.
 */
#define TRANSLATED_OUT 0x707a

/* As packet_translate(), for a packet that comes in. */
static __always_inline int packet_translate_in(struct __sk_buff *skb, const struct packet *packet,
					       const struct endpoint *src,
					       const struct endpoint *dst)
{
	skb->tc_index = TRANSLATED;
	return packet_translate(skb, packet, src, dst);
}

/* As packet_translate(), for a packet that leaves. */
static __always_inline int packet_translate_out(struct __sk_buff *skb, const struct packet *packet,
						const struct endpoint *src,
						const struct endpoint *dst)
{
	skb->tc_index = TRANSLATED_OUT;
	return packet_translate(skb, packet, src, dst);
}

/* Return whether a packet has left by another device before, and was translated there. */
static __always_inline bool was_translated_out(const struct __sk_buff *skb)
{
	return skb->tc_index == TRANSLATED_OUT;
}

/* Forget that, as the packet comes in at somebody else's. */
static __always_inline void translated_out_forget(struct __sk_buff *skb)
{
	if (was_translated_out(skb))
		skb->tc_index = 0;
}

/* Return whether a packet has come in before, and was translated. */
static __always_inline bool was_translated(const struct __sk_buff *skb)
{
	return skb->tc_index == TRANSLATED;
}

/*
 * Return whether a frame that comes by a port is for the bridge itself, which only the bridge would
 * say: too late, where netfilter's PREROUTING sees frames of bridges before (br_netfilter), and
 * conntrack keeps the address of a service for a connection that it sees answered by a pod.
 */
static __always_inline bool is_for_bridge(const struct __sk_buff *skb)
{
	const struct device *device = device_of(skb->ifindex);
	const __u8 *to = (void *)(long)skb->data;

	return device && device->flags & DEVICE_PORT &&
	       (const void *)(to + ETH_ALEN) <= (const void *)(long)skb->data_end &&
	       *(const __u32 *)to == *(const __u32 *)device->bridge &&
	       *(const __u16 *)(to + 4) == *(const __u16 *)(device->bridge + 4);
}

/*
 * Return whether a frame is for this node, and nobody else's on a shared wire (rule 14), and comes
 * for the first time.
 */
static __always_inline bool is_for_us(const struct __sk_buff *skb)
{
	if (is_tagged(skb) || was_translated(skb))
		return false;
	return skb->pkt_type == PACKET_HOST ||
	       (skb->pkt_type == PACKET_OTHERHOST && is_for_bridge(skb));
}

/* Return whether a frame that is not for this node comes for the first time, to be bridged. */
static __always_inline bool is_for_another(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_OTHERHOST && !is_tagged(skb) && !was_translated(skb);
}

/* Forget that, as the packet leaves: it may come in again at somebody else's. */
static __always_inline void translated_forget(struct __sk_buff *skb)
{
	if (was_translated(skb))
		skb->tc_index = 0;
}

#endif /* PYPROXY_TRANSLATE_H */
