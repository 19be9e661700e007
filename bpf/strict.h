/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is done to new connections for no service, by their address alone: nftables mode only. */
#ifndef PYPROXY_STRICT_H
#define PYPROXY_STRICT_H

#include "balance.h"
#include "marks.h"

/* Return whether an address may be in cluster_cidrs. */
static __always_inline bool is_strict_prefix(const struct addr *addr)
{
	__u64 prefixes = setting(SETTING_STRICT_PREFIXES);

	return prefixes && has_prefix(prefixes, addr);
}

/*
 * Return what becomes of a new connection to an address that is for no service. What is for this
 * node itself passes: kube-proxy has those rules where it forwards and sends (parity A8.6, A8.7).
 */
static __always_inline enum verdict strict_verdict(const struct addr *dst)
{
	struct cidr_key key = { .length = 32 * ADDR_WORDS, .addr = *dst };
	const __u32 *found;

	if (!is_strict_prefix(dst) || node_address_find(dst) >= 0)
		return VERDICT_PASS;
	found = cluster_cidrs.lookup(&key);
	if (!found || *found == STRICT_NOTHING)
		return VERDICT_PASS;
	return *found == STRICT_REFUSE ? VERDICT_REFUSE : VERDICT_DROP;
}

#endif /* PYPROXY_STRICT_H */
