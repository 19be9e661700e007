// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE // SOCK_CLOEXEC
#include "endpoint.h"

#include "process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct endpoint endpoint_parse(const char *address, const char *port)
{
	struct endpoint endpoint = { 0 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&endpoint.address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&endpoint.address;
	in_port_t number = htons((in_port_t)parse_number(port, 1, 65535, "the port"));

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_port = number;
		endpoint.family = v4->sin_family = AF_INET;
		endpoint.length = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_port = number;
		endpoint.family = v6->sin6_family = AF_INET6;
		endpoint.length = sizeof(*v6);
	} else {
		die_usage("the address must be a literal IPv4 or IPv6 address");
	}
	return endpoint;
}

static void give_up_after(int fd, long seconds)
{
	struct timeval limit = { .tv_sec = seconds };

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0)
		die("cannot limit how long a socket waits");
}

static void leave_by(int fd, int family, uint16_t port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	bool is_v6 = family == AF_INET6;
	const void *any = is_v6 ? (const void *)&v6 : (const void *)&v4;

	if (bind(fd, any, is_v6 ? sizeof(v6) : sizeof(v4)) != 0)
		die("cannot bind the port to send from");
}

int endpoint_dial(const struct endpoint *to, int type)
{
	return endpoint_dial_from(to, type, 0);
}

int endpoint_dial_from(const struct endpoint *to, int type, uint16_t port)
{
	int fd = socket(to->family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("cannot make a socket");
	if (port)
		leave_by(fd, to->family, port);
	give_up_after(fd, 5);
	if (connect(fd, (const struct sockaddr *)&to->address, to->length) == 0)
		return fd;
	int reason = errno;
	close(fd);
	errno = reason;
	return -1;
}

void reset_on_close(int fd)
{
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) != 0)
		die("cannot set SO_LINGER");
}

int message_send(int fd, const char *message)
{
	// A write of 64 bytes to an empty send buffer is never partial.
	return send(fd, message, MESSAGE_BYTES, MSG_NOSIGNAL) == MESSAGE_BYTES ? 0 : -1;
}

int message_receive(int fd, char *message)
{
	size_t have = 0;

	while (have < MESSAGE_BYTES) {
		ssize_t got = recv(fd, message + have, MESSAGE_BYTES - have, 0);
		if (got < 0)
			return -1;
		if (got == 0) {
			errno = ECONNRESET;
			return -1;
		}
		have += (size_t)got;
	}
	return 0;
}
