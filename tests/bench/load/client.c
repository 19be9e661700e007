// SPDX-License-Identifier: Apache-2.0
// client MODE ADDRESS PORT CPU
//
// Each line on standard input, "<milliseconds>", runs one window of operations, one after
// another, and prints one line of JSON: operations, nanoseconds and their latencies. The
// process stays between windows, so that none pays for a start, and it ends with its input.
//
//   tcp-connect  socket, connect, request, answer, close by RST
//   udp-connect  socket, connect, request, answer, close
//   tcp-request  request and answer on one connection that is made once a window
//   udp-request  the same by one connected socket
//   udp-burst    the same, but 32 requests at once, and then their answers: what packets take
//                outweighs what it takes to wake the other side
//   udp-open     socket, bind, connect, request, close: no answer is awaited, and no port comes
//                again before all others had their turn
//   udp-send     requests by one connected socket, without answers
//   tcp-take     many bytes to the server, and then its answer, on one connection (see bulk.h)
//   udp-take     the same in one send, which the kernel or the device makes datagrams of
//   tcp-give     a request, and many bytes from the server
//   udp-give     the same by datagrams
//
// Operations are requests; the latencies of udp-burst are those of a burst.
// Any failed operation ends the process with status 1.
#include "bulk.h"
#include "endpoint.h"
#include "process.h"
#include "samples.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct mode {
	const char *name;
	int type;
	bool kept;
	size_t requests; // at once: all fit into a socket's buffer as the kernel makes it
	bool answered;
	const char *bulk; // the request's word where bytes are what counts
};

static const struct mode modes[] = {
	{ "tcp-connect", SOCK_STREAM, false, 1, true, NULL },
	{ "udp-connect", SOCK_DGRAM, false, 1, true, NULL },
	{ "tcp-request", SOCK_STREAM, true, 1, true, NULL },
	{ "udp-request", SOCK_DGRAM, true, 1, true, NULL },
	{ "udp-burst", SOCK_DGRAM, true, 32, true, NULL },
	{ "udp-open", SOCK_DGRAM, false, 1, false, NULL },
	{ "udp-send", SOCK_DGRAM, true, 1, false, NULL },
	{ "tcp-take", SOCK_STREAM, true, 1, true, BULK_TAKE },
	{ "udp-take", SOCK_DGRAM, true, 1, true, BULK_TAKE },
	{ "tcp-give", SOCK_STREAM, true, 1, true, BULK_GIVE },
	{ "udp-give", SOCK_DGRAM, true, 1, true, BULK_GIVE },
};

// Returns the port to send from: each in its turn where sockets only open connections, 0 else.
static uint16_t port_of(const struct mode *mode)
{
	static uint16_t last;

	if (mode->kept || mode->answered)
		return 0;
	last = last < 1024 || last == UINT16_MAX ? 1024 : last + 1;
	return last;
}

static int dial(const struct mode *mode, const struct endpoint *to)
{
	int fd = endpoint_dial_from(to, mode->type, port_of(mode));

	if (fd < 0)
		die("connect");
	if (mode->type == SOCK_STREAM)
		reset_on_close(fd);
	return fd;
}

static void exchange_bulk(int fd, const struct mode *mode)
{
	bool stream = mode->type == SOCK_STREAM, take = bulk_asked(mode->bulk, BULK_TAKE);
	char message[MESSAGE_BYTES] = { 0 };

	memcpy(message, mode->bulk, strlen(mode->bulk));
	if (message_send(fd, message) != 0 || (take && bulk_send(fd, stream, NULL, 0) != 0))
		die("send");
	if (take ? message_receive(fd, message) != 0 : bulk_receive(fd, stream) != 0)
		die("receive");
}

static void exchange(int fd, const struct mode *mode)
{
	static const char request[MESSAGE_BYTES] = "request";
	char answer[MESSAGE_BYTES];

	if (mode->bulk) {
		exchange_bulk(fd, mode);
		return;
	}
	for (size_t i = 0; i < mode->requests; i++)
		if (message_send(fd, request) != 0)
			die("send");
	for (size_t i = 0; mode->answered && i < mode->requests; i++)
		if (message_receive(fd, answer) != 0)
			die("receive");
}

static void exchange_once(const struct mode *mode, const struct endpoint *to)
{
	int fd = dial(mode, to);

	exchange(fd, mode);
	close(fd);
}

static void run_window(const struct mode *mode, const struct endpoint *to, uint64_t length_ns,
		       struct samples *samples)
{
	int kept = mode->kept ? dial(mode, to) : -1;
	uint64_t start = now_ns(), last = start;

	samples_clear(samples);
	while (last - start < length_ns) {
		if (mode->kept)
			exchange(kept, mode);
		else
			exchange_once(mode, to);
		uint64_t now = now_ns();
		samples_add(samples, now - last);
		last = now;
	}
	if (mode->kept)
		close(kept);
	printf("{\"operations\":%zu,\"ns\":%llu,\"latency_ns\":", samples->count * mode->requests,
	       (unsigned long long)(last - start));
	samples_print(samples);
	puts("}");
	fflush(stdout);
}

static const struct mode *mode_named(const char *name)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i].name, name) == 0)
			return &modes[i];
	die_usage("the mode must be tcp-connect, udp-connect, tcp-request, udp-request, "
		  "udp-burst, udp-open, udp-send, tcp-take, udp-take, tcp-give or udp-give");
}

int main(int argc, char **argv)
{
	struct samples samples = { 0 };
	char line[32];

	if (argc != 5)
		die_usage("usage: client MODE ADDRESS PORT CPU (-1: any)");
	const struct mode *mode = mode_named(argv[1]);
	struct endpoint to = endpoint_parse(argv[2], argv[3]);
	pin_to_cpu(parse_number(argv[4], -1, 1023, "the CPU"));
	go_first();
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		long ms = parse_number(line, 1, 3600000, "a window's length in ms");
		run_window(mode, &to, (uint64_t)ms * 1000000u, &samples);
	}
	return 0;
}
