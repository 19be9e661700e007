/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Time as connections and affinities have it: ticks, modulo 2^32 (TICK_SHIFT). */
#ifndef PYPROXY_CLOCK_H
#define PYPROXY_CLOCK_H

#include "maps.h"

/* Return the present time in ticks. */
static __always_inline __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

#endif /* PYPROXY_CLOCK_H */
