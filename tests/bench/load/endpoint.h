// SPDX-License-Identifier: Apache-2.0
// An address and port to bind or dial, and the message that both sides exchange there.
#ifndef ENDPOINT_H
#define ENDPOINT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

// Requests and answers have this size in TCP and UDP: one segment, one datagram, so a rate
// counts round trips and not bytes. An answer begins with the server's name, padded by zeros.
enum { MESSAGE_BYTES = 64 };

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length;
	int family;
};

// Takes a literal IPv4 or IPv6 address and a decimal port; ends with status 2 on anything else.
struct endpoint endpoint_parse(const char *address, const char *port);

// Returns a new close-on-exec socket connected to the endpoint, or -1 with errno set. Its
// sends and receives give up after five seconds (EAGAIN): a lost packet ends a run, it
// doesn't hang it. What may fail only for want of memory or files ends the process.
int endpoint_dial(const struct endpoint *to, int type);

// The same from a port, or from any where that is 0.
int endpoint_dial_from(const struct endpoint *to, int type, uint16_t port);

// Makes close() send RST instead of FIN.
//
// A side that closes first with FIN keeps the connection in TIME_WAIT for 60 s. At 20,000
// connections a second the 28,232 ports of one client address to one server are used up in
// under two seconds, and connect() slows down long before, as it searches for a free one:
// what is measured then is that search. RST leaves no state on either side, without
// tcp_tw_reuse (a setting that real nodes may not have). It also makes a connection as cheap
// as it can be, so that what a proxy adds weighs more: the strict choice.
void reset_on_close(int fd);

// Both move exactly MESSAGE_BYTES. They return 0, or -1 with errno set; a stream that ended
// early is ECONNRESET.
int message_send(int fd, const char *message);
int message_receive(int fd, char *message);

#endif // ENDPOINT_H
