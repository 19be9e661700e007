// SPDX-License-Identifier: Apache-2.0
#include "samples.h"

#include "process.h"

#include <stdio.h>
#include <stdlib.h>

void samples_clear(struct samples *samples)
{
	samples->count = 0;
}

void samples_add(struct samples *samples, uint64_t ns)
{
	if (samples->count == samples->room) {
		samples->room = samples->room ? samples->room * 2 : 65536;
		samples->ns = realloc(samples->ns, samples->room * sizeof(*samples->ns));
		if (!samples->ns)
			die("no memory for samples");
	}
	samples->ns[samples->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static int ascending(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

// The smallest sample that at least this share (in thousandths) of all don't exceed.
static uint32_t quantile(const struct samples *samples, size_t thousandths)
{
	size_t rank = (samples->count * thousandths + 999) / 1000;

	return samples->ns[rank ? rank - 1 : 0];
}

void samples_print(struct samples *samples)
{
	if (!samples->count) {
		printf("null");
		return;
	}
	qsort(samples->ns, samples->count, sizeof(*samples->ns), ascending);
	printf("{\"min\":%u,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u}",
	       quantile(samples, 0), quantile(samples, 500), quantile(samples, 900),
	       quantile(samples, 990), quantile(samples, 999), quantile(samples, 1000));
}
