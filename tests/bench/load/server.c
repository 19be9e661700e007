// SPDX-License-Identifier: Apache-2.0
// server tcp|udp ADDRESS PORT NAME CPU
//
// Answers every request with NAME. Prints "ready" when it listens; ends when it is killed.
// One connection at a time, in one thread: the load tools have one request under way, and
// a loop of blocking calls has no scheduling of its own in the figures.
#define _GNU_SOURCE // accept4
#include "bulk.h"
#include "endpoint.h"
#include "process.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int bound_socket(const struct endpoint *at, int type)
{
	int fd = socket(at->family, type | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		die("cannot make a socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0)
		die("cannot set SO_REUSEADDR");
	if (bind(fd, (const struct sockaddr *)&at->address, at->length) != 0)
		die("cannot bind");
	return fd;
}

static void announce(void)
{
	puts("ready");
	fflush(stdout);
}

static int answer_stream(int fd, const char *request, const char *answer)
{
	if (bulk_asked(request, BULK_GIVE))
		return bulk_send(fd, true, NULL, 0);
	if (bulk_asked(request, BULK_TAKE) && bulk_receive(fd, true) != 0)
		return -1;
	return message_send(fd, answer);
}

static void serve_connection(int fd, const char *answer)
{
	char request[MESSAGE_BYTES];
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	while (message_receive(fd, request) == 0)
		if (answer_stream(fd, request, answer) != 0)
			break;
	close(fd);
}

__attribute__((noreturn)) static void serve_tcp(const struct endpoint *at, const char *answer)
{
	int listener = bound_socket(at, SOCK_STREAM);

	if (listen(listener, 128) != 0)
		die("cannot listen");
	announce();
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		// A client that reset its connection before it was accepted is its own business.
		if (fd >= 0)
			serve_connection(fd, answer);
	}
}

static void answer_datagram(int fd, const char *request, const char *answer,
			    const struct sockaddr *from, socklen_t length)
{
	if (bulk_asked(request, BULK_GIVE)) {
		bulk_send(fd, false, from, length);
		return;
	}
	if (bulk_asked(request, BULK_TAKE) && bulk_receive(fd, false) != 0)
		return;
	sendto(fd, answer, MESSAGE_BYTES, 0, from, length);
}

__attribute__((noreturn)) static void serve_udp(const struct endpoint *at, const char *answer)
{
	int fd = bound_socket(at, SOCK_DGRAM);
	char request[MESSAGE_BYTES];
	struct sockaddr_storage from;

	announce();
	for (;;) {
		socklen_t length = sizeof(from);
		// An error here is an ICMP message about an earlier answer: its client is gone.
		if (recvfrom(fd, request, sizeof(request), 0, (struct sockaddr *)&from, &length) >=
		    0)
			answer_datagram(fd, request, answer, (struct sockaddr *)&from, length);
	}
}

int main(int argc, char **argv)
{
	char answer[MESSAGE_BYTES] = { 0 };

	if (argc != 6)
		die_usage("usage: server tcp|udp ADDRESS PORT NAME CPU (-1: any)");
	struct endpoint at = endpoint_parse(argv[2], argv[3]);
	strncpy(answer, argv[4], sizeof(answer) - 1);
	pin_to_cpu(parse_number(argv[5], -1, 1023, "the CPU"));
	go_first();
	if (strcmp(argv[1], "tcp") == 0)
		serve_tcp(&at, answer);
	if (strcmp(argv[1], "udp") == 0)
		serve_udp(&at, answer);
	die_usage("the protocol must be tcp or udp");
}
