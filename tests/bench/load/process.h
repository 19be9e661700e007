// SPDX-License-Identifier: Apache-2.0
// What every tool here needs of its own process: a way to die, a CPU, a clock.
#ifndef PROCESS_H
#define PROCESS_H

#include <stdint.h>

// Ends with status 1 and one sentence: "<program>: <what>: <errno's text>".
// A benchmark with a failed operation in it has no result, so nothing is retried or counted.
__attribute__((noreturn)) void die(const char *what);

// Ends with status 2 and the sentence as it is: wrong usage.
__attribute__((noreturn)) void die_usage(const char *sentence);

// Takes a decimal between low and high, or ends with status 2 naming what it was for.
long parse_number(const char *text, long low, long high, const char *what);

// Moves this process to one CPU for good; -1 leaves it to the scheduler.
void pin_to_cpu(long cpu);

// Puts this process before all others of its CPU (SCHED_FIFO, lowest priority): what else the
// machine does then takes nothing from a window. Under a load average of 2 the interval of a
// ratio became a tenth as wide. Both ends block for each other, so the CPU isn't kept from
// anybody for longer than a window. Needs root.
void go_first(void);

// CLOCK_MONOTONIC in nanoseconds: the clock of Python's time.monotonic_ns().
uint64_t now_ns(void);

#endif // PROCESS_H
