// SPDX-License-Identifier: Apache-2.0
// await_http ADDRESS PORT PATH TIMEOUT_MS
//
// Asks for PATH every millisecond until the answer's status is 200, then prints
// CLOCK_MONOTONIC in nanoseconds. Status 1 when the time is over. A process of its own: it
// watches another one start, and must take no time from it that a Python loop would take.
#include "endpoint.h"
#include "process.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool answers_200(const struct endpoint *to, const char *request)
{
	char status[sizeof("HTTP/1.1 200")] = { 0 };
	size_t have = 0, want = sizeof(status) - 1;
	int fd = endpoint_dial(to, SOCK_STREAM);

	if (fd < 0)
		return false;
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		want = 0;
	while (have < want) {
		ssize_t got = recv(fd, status + have, want - have, 0);
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	close(fd);
	return have == sizeof(status) - 1 && strcmp(status + sizeof("HTTP/1.1"), "200") == 0;
}

int main(int argc, char **argv)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	char request[512];

	if (argc != 5)
		die_usage("usage: await_http ADDRESS PORT PATH TIMEOUT_MS");
	struct endpoint to = endpoint_parse(argv[1], argv[2]);
	long timeout_ms = parse_number(argv[4], 1, 3600000, "the timeout in ms");
	int length = snprintf(request, sizeof(request),
			      "GET %s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
			      argv[3]);
	if (length < 0 || (size_t)length >= sizeof(request))
		die_usage("the path is too long");
	uint64_t end = now_ns() + (uint64_t)timeout_ms * 1000000u;
	while (!answers_200(&to, request)) {
		if (now_ns() > end) {
			errno = ETIMEDOUT;
			die("no answer with status 200");
		}
		nanosleep(&pause, NULL);
	}
	printf("%llu\n", (unsigned long long)now_ns());
	return 0;
}
