// SPDX-License-Identifier: Apache-2.0
// prober ADDRESS PORT PAUSE_US CPU
//
// Connects again and again over TCP and prints a line each time that another server answers
// than before: "<CLOCK_MONOTONIC ns of the answer> <ns since the last answer of the one
// before> <name>". The second number is the resolution: the change was seen that late at
// most. It ends when its output is closed or it is killed.
//
// A connection that fails is printed with the name "-" and its reason on standard error, once
// in a row; probing goes on, so that a gap in service shows as such.
#include "endpoint.h"
#include "process.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static void ask(const struct endpoint *to, char *answer)
{
	static const char request[MESSAGE_BYTES] = "who";
	int fd = endpoint_dial(to, SOCK_STREAM);

	if (fd >= 0) {
		reset_on_close(fd);
		if (message_send(fd, request) == 0 && message_receive(fd, answer) == 0) {
			close(fd);
			return;
		}
		int reason = errno;
		close(fd);
		errno = reason;
	}
	memcpy(answer, "-", 2);
}

static void report(uint64_t at, uint64_t gap, const char *answer)
{
	if (strcmp(answer, "-") == 0)
		fprintf(stderr, "prober: no answer: %s\n", strerror(errno));
	printf("%llu %llu %s\n", (unsigned long long)at, (unsigned long long)gap, answer);
	if (fflush(stdout) != 0)
		die("cannot write");
}

static void probe(const struct endpoint *to, long pause_us)
{
	struct timespec pause = { .tv_nsec = pause_us * 1000 };
	char before[MESSAGE_BYTES] = "", answer[MESSAGE_BYTES];
	uint64_t last = now_ns();

	for (;;) {
		ask(to, answer);
		uint64_t now = now_ns();
		answer[MESSAGE_BYTES - 1] = '\0';
		if (strcmp(answer, before) != 0) {
			report(now, now - last, answer);
			memcpy(before, answer, sizeof(before));
		}
		last = now;
		if (pause_us)
			nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	if (argc != 5)
		die_usage("usage: prober ADDRESS PORT PAUSE_US CPU (-1: any)");
	struct endpoint to = endpoint_parse(argv[1], argv[2]);
	long pause_us = parse_number(argv[3], 0, 999999, "the pause in us");
	pin_to_cpu(parse_number(argv[4], -1, 1023, "the CPU"));
	go_first();
	// Timers are late by 50 us on purpose unless told: half of the pause that is used.
	if (prctl(PR_SET_TIMERSLACK, 1) != 0)
		die("cannot set the timer slack");
	probe(&to, pause_us);
}
