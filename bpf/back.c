/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a route has chosen an uplink for what a backend answers that is not the one by which its
 * client came. That may be no way to the client: rules by which others keep both ways the same look
 * at packets to this node, and by then we have made them a backend's (rule 15).
 *
 * A packet for which the kernel has to ask who the gateway is gets lost (neigh_update sends it to
 * the neighbour of the former route); but the gateway by which clients come is mostly known.
 */
#include "connection.h"

/* bcc's own declaration lacks an argument */
static long (*redirect_neigh)(__u32 ifindex, void *next_hop, int bytes,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

struct next_hop { /* struct bpf_redir_neigh */
	__u32 family;
	struct addr addr;
	__u32 rest[4 - ADDR_WORDS +
		   1]; /* there is room for IPv6; the last one is not handed over */
};

/*
 * Send a packet, whose IP header is at `at`, to the gateway of an uplink. One that is on its way
 * into a tunnel has no link-layer header, and the kernel would drop it.
 */
static __always_inline int to_gateway(struct __sk_buff *skb, __u32 at, __u32 uplink,
				      const struct addr *gateway)
{
	struct next_hop next_hop = { .family = AF_FAMILY, .addr = *gateway };

	if (!at && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_DROP;
	return redirect_neigh(uplink, &next_hop, sizeof(next_hop) - sizeof(__u32), 0);
}

int back(struct __sk_buff *skb)
{
	__u32 uplink = skb->cb[2], left = skb->ifindex, at = stage_ip(skb);
	const struct device *by = devices.lookup(&left), *to = devices.lookup(&uplink);
	struct addr gateway;

	/* what leaves to a pod, or by a port of the client's uplink, is on its way */
	if (!by || !(by->flags & DEVICE_UPLINK) || by->route == uplink || !to)
		return TC_NEXT;
	gateway = to->gateway;
	if (!addr_fold(&gateway) && !(to->flags & DEVICE_TUNNEL))
		return TC_NEXT;
	count(COUNTER_PACKET_BACK);
	if (to->flags & DEVICE_TUNNEL)
		return bpf_redirect(uplink, 0);
	return to_gateway(skb, at, uplink, &gateway);
}
