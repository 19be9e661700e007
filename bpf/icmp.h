/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What ICMP and ICMPv6 have in common, by the same names; addr.h and family.h have the rest. */
#ifndef PYPROXY_ICMP_H
#define PYPROXY_ICMP_H

#include "family.h"

#define ICMP_HEADER_BYTES 8 /* of errors: what they quote follows */
#define ICMP_CHECK 2 /* offset of the checksum */

#if FAMILY == 4

#define ICMP_REDIRECT 5 /* RFC 792 */
#define ICMP_UNREACHABLE 3
#define ICMP_PORT 3
/* as bits: unreachable, source quench, time exceeded, parameter problem */
#define ICMP_ERRORS (1 << ICMP_UNREACHABLE | 1 << 4 | 1 << 11 | 1 << 12)
#define ICMP_BYTES 576 /* an error is at most that long (RFC 1812 4.3.2.3) */

/* Return whether a message is an error about a packet, which it quotes (RFC 792, RFC 1122 3.2.2). */
static __always_inline bool icmp_is_error(__u8 type)
{
	return type < 32 && ICMP_ERRORS >> type & 1;
}

/* What is quoted makes up for other addresses by its header's own checksum. */
static __always_inline __u32 quoted_change(__u32 diff)
{
	return 0;
}

/* ICMP's checksum covers no addresses. */
static __always_inline long icmp_pseudo_fix(struct __sk_buff *skb, __u32 at, __u32 diff)
{
	return 0;
}

/* ICMP's checksum covers no addresses. */
static __always_inline __u32 icmp_pseudo_sum(const struct addr *src, const struct addr *dst,
					     __u32 length)
{
	return 0;
}

/* Return where the packet that a redirect is about begins, after the redirect's own header. */
static __always_inline __u32 redirected(struct __sk_buff *skb, __u32 icmp)
{
	return icmp + 8;
}

#else

#define ICMP_REDIRECT 137 /* RFC 4861 4.5 */
#define ND_REDIRECT_BYTES 40
#define ND_OPT_TARGET_LL 2
#define ICMP_UNREACHABLE 1 /* RFC 4443 3.1 */
#define ICMP_PORT 4
#define ICMP_BYTES 1280 /* an error is at most that long (RFC 4443 2.4 c) */

/* Return whether a message is an error about a packet, which it quotes (RFC 4443 2.1). */
static __always_inline bool icmp_is_error(__u8 type)
{
	return type < 128;
}

/* Return by how much what is quoted changes the sum of the message with other addresses. */
static __always_inline __u32 quoted_change(__u32 diff)
{
	return diff;
}

/* Put the checksum at `at` right for addresses of the message's own that change by `diff`. */
static __always_inline long icmp_pseudo_fix(struct __sk_buff *skb, __u32 at, __u32 diff)
{
	if (bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_PSEUDO_HDR))
		return -1;
	packet_sum_fix(skb, diff);
	return 0;
}

/* Return the sum of the pseudo-header that ICMPv6's checksum covers (RFC 4443 2.3). */
static __always_inline __u32 icmp_pseudo_sum(const struct addr *src, const struct addr *dst,
					     __u32 length)
{
	return pseudo_sum(src, dst, IPPROTO_ICMP_FAMILY, length);
}

/*
 * Return where the packet that a redirect is about begins: in the option Redirected Header,
 * before which there may be the target's link-layer address (RFC 4861 4.6.1, 4.6.3).
 */
static __always_inline __u32 redirected(struct __sk_buff *skb, __u32 icmp)
{
	__u8 option[2] = {}; /* type, and length in units of 8 bytes */
	__u32 at = icmp + ND_REDIRECT_BYTES;

	if (!bpf_skb_load_bytes(skb, at, option, sizeof(option)) && option[0] == ND_OPT_TARGET_LL)
		at += option[1] * 8;
	return at + 8;
}

#endif /* FAMILY */

#endif /* PYPROXY_ICMP_H */
