// SPDX-License-Identifier: Apache-2.0
// The durations of one window's operations, kept whole: percentiles are exact.
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct samples {
	uint32_t *ns; // a duration of more than 4.2 s is kept as UINT32_MAX
	size_t count;
	size_t room;
};

// Forgets all samples, keeps the memory: a window shouldn't begin with page faults.
void samples_clear(struct samples *samples);

void samples_add(struct samples *samples, uint64_t ns);

// Sorts the samples and prints them as one JSON object of nanoseconds, without a newline.
void samples_print(struct samples *samples);

#endif // SAMPLES_H
