/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The address of the family this object is compiled for, and every operation on it. */
#ifndef PYPROXY_ADDR_H
#define PYPROXY_ADDR_H

#include <linux/types.h>

#if FAMILY == 4
#define ADDR_WORDS 1
#define FAMILY_NUMBER 4
#elif FAMILY == 6
#define ADDR_WORDS 4
#define FAMILY_NUMBER 6
#else
#error "compile with -DFAMILY=4 or -DFAMILY=6"
#endif /* FAMILY */

/* An address in network byte order. A struct, so that assignment copies it. */
struct addr {
	__be32 word[ADDR_WORDS];
};

/* Return whether two addresses are the same. */
static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	__u32 differs = 0;

#pragma unroll
	for (int i = 0; i < ADDR_WORDS; i++)
		differs |= a->word[i] ^ b->word[i];
	return !differs;
}

/* Return all words of an address XORed: the address itself for IPv4. */
static __always_inline __u32 addr_fold(const struct addr *a)
{
	__u32 fold = 0;

#pragma unroll
	for (int i = 0; i < ADDR_WORDS; i++)
		fold ^= a->word[i];
	return fold;
}

/* Return what the addresses of one network have in common: 16 bits of IPv4, 64 of IPv6 folded. */
static __always_inline __u32 addr_prefix(const struct addr *addr)
{
#if FAMILY == 4
	const __u8 *byte = (const __u8 *)addr;

	return byte[0] << 8 | byte[1];
#else
	return addr->word[0] ^ addr->word[1];
#endif /* FAMILY */
}

/* Return whether an address is in 127.0.0.0/8, or ::1. */
static __always_inline bool addr_is_loopback(const struct addr *addr)
{
	const __u8 *byte = (const __u8 *)addr;

#if FAMILY == 4
	return byte[0] == 127;
#else
	return !addr->word[0] && !addr->word[1] && !addr->word[2] && !byte[12] && !byte[13] &&
	       !byte[14] && byte[15] == 1;
#endif /* FAMILY */
}

/* Make an address 127.0.0.1 or ::1. Return whether it was another one. */
static __always_inline bool addr_loopback(struct addr *addr)
{
	struct addr loopback = {};
	__u8 *byte = (__u8 *)&loopback;
	bool is_other;

#if FAMILY == 4
	byte[0] = 127;
#endif /* FAMILY */
	byte[sizeof(loopback) - 1] = 1;
	is_other = !addr_equal(addr, &loopback);
	*addr = loopback;
	return is_other;
}

#endif /* PYPROXY_ADDR_H */
