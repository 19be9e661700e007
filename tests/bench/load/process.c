// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE // sched_setaffinity, program_invocation_short_name
#include "process.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

void die_usage(const char *sentence)
{
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, sentence);
	exit(2);
}

long parse_number(const char *text, long low, long high, const char *what)
{
	char *end;

	errno = 0;
	long number = strtol(text, &end, 10);
	if (errno == 0 && end != text && *end == '\0' && number >= low && number <= high)
		return number;
	fprintf(stderr, "%s: %s must be a number from %ld to %ld, not \"%s\"\n",
		program_invocation_short_name, what, low, high, text);
	exit(2);
}

void pin_to_cpu(long cpu)
{
	cpu_set_t only;

	if (cpu < 0)
		return;
	CPU_ZERO(&only);
	CPU_SET((size_t)cpu, &only);
	if (sched_setaffinity(0, sizeof(only), &only) != 0)
		die("cannot run on the CPU asked for");
}

void go_first(void)
{
	struct sched_param lowest = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO, &lowest) != 0)
		die("cannot raise the priority");
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
