// SPDX-License-Identifier: Apache-2.0
// Many bytes one way, for throughput: what a message with one of these words is followed by.
#ifndef BULK_H
#define BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

// A request that begins so is followed by a bulk, and answered when all of it is there.
#define BULK_TAKE "take"
// A request that begins so is answered by a bulk.
#define BULK_GIVE "give"

// A stream's bulk is more than both socket buffers hold at first. That of datagrams is what one
// send with segmentation offload (UDP_SEGMENT) takes, and fits into a receive buffer.
enum {
	BULK_STREAM_BYTES = 256 * 1024,
	BULK_SEGMENT_BYTES = 1400,
	BULK_SEGMENTS = 32,
	BULK_DATAGRAM_BYTES = BULK_SEGMENT_BYTES * BULK_SEGMENTS,
};

bool bulk_asked(const char *message, const char *word);

// Both move one bulk, of a stream or of datagrams. They return 0, or -1 with errno set. `to` is
// NULL for a socket that is connected.
int bulk_send(int fd, bool stream, const struct sockaddr *to, socklen_t length);
int bulk_receive(int fd, bool stream);

#endif // BULK_H
