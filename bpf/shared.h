/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of both families: the object that is loaded first pins them, the other one gets those.
 */
#ifndef PYPROXY_SHARED_H
#define PYPROXY_SHARED_H

#include "types.h"

#define BPF_F_NO_PREALLOC 1 /* memory only for what is used */
#define BPF_F_MMAPABLE 1024 /* the agent writes memory, not system calls */

#define MARKS 65536 /* endpoint_hash() has 16 bits */
#define WAYS 4096 /* next hops: pods of this node, and few others */

/*
 * The programs write and read: what a connected TCP socket asked for. Socket storage would do,
 * but making and freeing it costs a connection 0.9 us, this 0.3; sock_release deletes it.
 * Both families share it: a socket's end then runs one program. It is small on purpose:
 * cookies are new each time, so every access is to another bucket, and those of a map for
 * 262144 entries are not in any cache (0.5 us a connection). What does not fit has its
 * storage.
 */
BPF_F_TABLE("hash", struct cookie, struct connected, connected, MAX_CONNECTED, 0);

/*
 * The same of UDP sockets. Their backend may leave (rule 20), so that all of them have to be found:
 * TCP's must not take their places, and there are more.
 */
BPF_F_TABLE("hash", struct cookie, struct connected, connected_udp, MAX_CONNECTED_UDP, 0);

/* The programs write and read, the agent sweeps: struct socket_mark says what for. */
BPF_F_TABLE("array", __u32, struct socket_mark, socket_marks, MARKS, BPF_F_MMAPABLE);

/* The agent writes, the programs read: which ports stand for no client. */
BPF_F_TABLE("array", __u32, __u64, kept_ports, KEPT_PORTS, BPF_F_MMAPABLE);

#endif /* PYPROXY_SHARED_H */
