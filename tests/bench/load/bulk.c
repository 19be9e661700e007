// SPDX-License-Identifier: Apache-2.0
#include "bulk.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <string.h>

// Zeros to send, and room for what is received and never looked at.
static char room[64 * 1024];

bool bulk_asked(const char *message, const char *word)
{
	return memcmp(message, word, strlen(word)) == 0;
}

static int send_stream(int fd)
{
	size_t left = BULK_STREAM_BYTES;

	while (left) {
		size_t some = left < sizeof(room) ? left : sizeof(room);
		ssize_t sent = send(fd, room, some, MSG_NOSIGNAL);
		if (sent < 0)
			return -1;
		left -= (size_t)sent;
	}
	return 0;
}

static int send_segments(int fd, const struct sockaddr *to, socklen_t length)
{
	union {
		struct cmsghdr header; // for its alignment
		char bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control = { 0 };
	struct iovec data = { .iov_base = room, .iov_len = BULK_DATAGRAM_BYTES };
	struct msghdr message = {
		.msg_name = (void *)to,
		.msg_namelen = to ? length : 0,
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *segment = CMSG_FIRSTHDR(&message);
	uint16_t size = BULK_SEGMENT_BYTES;

	segment->cmsg_level = IPPROTO_UDP;
	segment->cmsg_type = UDP_SEGMENT;
	segment->cmsg_len = CMSG_LEN(sizeof(size));
	memcpy(CMSG_DATA(segment), &size, sizeof(size));
	return sendmsg(fd, &message, MSG_NOSIGNAL) == BULK_DATAGRAM_BYTES ? 0 : -1;
}

int bulk_send(int fd, bool stream, const struct sockaddr *to, socklen_t length)
{
	return stream ? send_stream(fd) : send_segments(fd, to, length);
}

int bulk_receive(int fd, bool stream)
{
	size_t left = stream ? BULK_STREAM_BYTES : BULK_DATAGRAM_BYTES;

	while (left) {
		ssize_t got = recv(fd, room, left < sizeof(room) ? left : sizeof(room), 0);
		if (got < 0)
			return -1;
		if (got == 0) {
			errno = ECONNRESET;
			return -1;
		}
		left -= (size_t)got;
	}
	return 0;
}
