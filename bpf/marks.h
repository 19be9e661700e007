/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which ends of packets are worth a look-up: one load instead of one or two hash look-ups. */
#ifndef PYPROXY_MARKS_H
#define PYPROXY_MARKS_H

#include "frontend.h"

/* Return 16 bits of a hash: the upper half of a product with 2^32 / phi (Knuth). */
static __always_inline __u32 hash16(__u32 value)
{
	return ((value * 0x9e3779b1) & 0xffffffff) >> 16;
}

/* Return where an end's mark is. pyproxy.kernel.marks has the same formula; a test compares. */
static __always_inline __u32 endpoint_hash(const struct endpoint *end)
{
	return hash16(addr_fold(&end->addr) + end->port);
}

/* Return whether a setting has the bit that stands for an address's network. */
static __always_inline bool has_prefix(__u64 prefixes, const struct addr *addr)
{
	return prefixes >> (hash16(addr_prefix(addr)) & 63) & 1;
}

/*
 * Return whether an address may be a frontend's by its prefix: services have few of those, and
 * where they are said is in every cache. The agent has the same formula.
 */
static __always_inline bool is_frontend_prefix(const struct addr *addr)
{
	return has_prefix(setting(SETTING_PREFIXES), addr);
}

/* Mark the backend of a connected socket, whose entry in `connected` is written before. */
static __always_inline void mark_socket(__u32 index)
{
	struct socket_mark *mark = socket_marks.lookup(&index);

	if (!mark)
		return;
	mark->busy[0] = 1;
	mark->busy[1] = 1;
}

/* Return whether some connected socket may have an end with this fold of its address as backend. */
static __always_inline bool is_socket_marked(__u32 fold, __u16 port)
{
	__u32 index = hash16(fold + port);
	const struct socket_mark *mark = socket_marks.lookup(&index);

	return mark && *(const __u64 *)mark;
}

/* Return the frontend's bit of an end's mark: three more bits of the hash say which. */
static __always_inline __u8 frontend_bit(const struct endpoint *end)
{
	return 1 << (((addr_fold(&end->addr) + end->port) * 0x9e3779b1) >> 13 & 7);
}

/* Return the mark of an end, never NULL. */
static __always_inline struct mark *mark_of(const struct endpoint *end)
{
	__u32 index = endpoint_hash(end);

	return marks.lookup(&index);
}

/*
 * Return whether a port may be a NodePort of some service: their frontends have no address, and
 * those that packets name differ from node to node.
 */
static __always_inline bool is_node_port_marked(__u16 port)
{
	struct endpoint any = { .port = port };
	const struct mark *mark = is_node_port(port) ? mark_of(&any) : NULL;

	return mark && mark->frontend & frontend_bit(&any);
}

/* Return whether an end may be a frontend or a connection's. */
static __always_inline bool is_marked(const struct endpoint *end)
{
	const struct mark *mark = mark_of(end);

	return (mark && (mark->busy[0] | mark->busy[1] | (mark->frontend & frontend_bit(end)))) ||
	       is_node_port_marked(end->port);
}

/* Return whether an end may be a connection's. */
static __always_inline bool is_busy_marked(const struct endpoint *end)
{
	const struct mark *mark = mark_of(end);

	return mark && (mark->busy[0] | mark->busy[1]);
}

/* Return whether both ends may be a connection's. */
static __always_inline bool is_between_busy(const struct endpoint *src, const struct endpoint *dst)
{
	return is_busy_marked(src) && is_busy_marked(dst);
}

/* Return whether an end may be a frontend's own address and port. */
static __always_inline bool is_address_marked(const struct endpoint *end)
{
	const struct mark *mark = mark_of(end);

	return mark && mark->frontend & frontend_bit(end);
}

/* Return whether an end may be a frontend. */
static __always_inline bool is_frontend_marked(const struct endpoint *end)
{
	return is_address_marked(end) || is_node_port_marked(end->port);
}

/*
 * Mark an end of a connection. Its record is written before: the agent clears marks, waits for
 * programs that run, and marks again what the records say.
 */
static __always_inline void mark_busy(const struct endpoint *end)
{
	struct mark *mark = mark_of(end);

	/* most are marked; a store would take the line from all CPUs that read it by the packet */
	if (!mark || (mark->busy[0] && mark->busy[1]))
		return;
	mark->busy[0] = 1;
	mark->busy[1] = 1;
}

#endif /* PYPROXY_MARKS_H */
