/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * THE layouts: every struct that the agent and the programs share. They are written
 * nowhere else; user space reads names, offsets and sizes from the BTF of the maps.
 *
 * Addresses are in network byte order, every integer (ports too) in host order.
 * Ids, generations and slot numbers start at 1: 0 means "never written".
 *
 * A change of any struct here needs a new LAYOUT_VERSION in pyproxy/kernel/pins.py;
 * tests/datapath/golden/layout.json fails the build otherwise.
 */
#ifndef PYPROXY_TYPES_H
#define PYPROXY_TYPES_H

#include "addr.h"

/* Why an address belongs to a service. Kept equal to pyproxy.tables.Kind by a test. */
enum frontend_kind {
	KIND_CLUSTER_IP = 1,
	KIND_EXTERNAL_IP = 2,
	KIND_LOAD_BALANCER = 3,
	KIND_NODE_PORT = 4,
};

/* service_header.flags; pyproxy.tables.ServiceFlag */
enum service_flag {
	SERVICE_INTERNAL_LOCAL = 1, /* internalTrafficPolicy: Local */
	SERVICE_EXTERNAL_LOCAL = 2, /* externalTrafficPolicy: Local */
	SERVICE_HAS_ENDPOINTS = 4, /* anywhere in the cluster: drop instead of refuse */
};

/* backend.flags and member.flags; pyproxy.tables.BackendFlag */
enum backend_flag {
	BACKEND_LOCAL = 1,
	BACKEND_READY = 2,
	BACKEND_SERVING = 4,
	BACKEND_TERMINATING = 8,
};

/* An address and a port: one end of a connection. */
struct endpoint {
	struct addr addr;
	__u16 port;
	__u16 pad;
};

/* frontends: what a client dials */
struct frontend_key {
	struct addr addr;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

/*
 * Hash values are reused at once for another key (rule 7), so the value repeats what
 * it is for: a reader that saw another key's value notices.
 */
struct frontend {
	__u32 service;
	__u32 addr_fold; /* addr_fold() of the key's address */
	__u16 port;
	__u8 proto;
	__u8 kind; /* enum frontend_kind */
	__u32 flags; /* none yet */
};

/* services: [service id]; both words change in one aligned 8-byte store */
struct service {
	__u32 first_slot; /* of the header; its backends follow */
	__u32 generation;
};

/*
 * The backends follow in the order local-only, both, cluster-only: Local is the first
 * local_count of them, Cluster is cluster_count of them from cluster_offset on.
 */
struct service_header {
	__u32 local_count;
	__u32 cluster_offset;
	__u32 cluster_count;
	__u32 affinity_s; /* sessionAffinity timeout in seconds, 0: none */
	__u32 flags; /* enum service_flag */
	__u32 spare;
};

struct backend {
	struct addr addr;
	__u32 node; /* key of node_names, 0: no nodeName */
	__u16 port;
	__u16 flags; /* enum backend_flag */
};

/* slots: a header, then its backends. service and generation prove that a slot is not stale. */
struct slot {
	__u32 service;
	__u32 generation;
	union {
		struct service_header header;
		struct backend backend;
	};
};

/* members: which endpoints are still a service's, usable for new connections or not */
struct member_key {
	__u32 service;
	struct endpoint endpoint;
};

struct member {
	__u32 flags; /* enum backend_flag */
};

/* service_names: who a service id is, so that ids and names survive the agent */
struct service_name {
	char namespace[64];
	char name[64];
	char port[16];
	char created[32]; /* metadata.creationTimestamp */
	__u32 proto;
	__u32 spare;
};

/* node_names: [key of backend.node] */
struct node_name {
	char name[256];
};

/* One service that a socket talks to, and the backend that answers for it. */
struct association {
	struct endpoint service;
	struct endpoint backend;
	__u32 service_id;
	__u32 generation; /* of the service when the backend was last known as a member */
	__u32 check; /* udp_backends only: all words of this and the key XORed (rule 7) */
};

/* A socket's cookie, which no other socket ever gets; as words, so that keys need no padding. */
struct cookie {
	__u32 word[2];
};

/* connected: one map for both families, so that one program empties it */
#define CONNECTED_SPARE_WORDS (2 + 2 * (4 - ADDR_WORDS))

struct connected {
	__u32 family; /* whose addresses these are: 4 or 6 */
	__u32 check; /* all words of this and the cookie XORed (rule 7) */
	struct endpoint service;
	struct endpoint backend;
	__u32 spare[CONNECTED_SPARE_WORDS];
};

/*
 * sock_nat, in the socket's own storage: never evicted by other sockets. The kernel runs the
 * hooks of one socket one after the other (lock_sock, BPF_CGROUP_RUN_SA_PROG_LOCK), so that
 * threads which share a socket never see it half written.
 * An unconnected UDP socket that uses a second service has `more` set; its further
 * associations are in udp_backends and udp_services.
 */
struct sock_nat {
	struct association first;
	__u32 more;
};

struct udp_backend_key {
	struct cookie cookie;
	__u32 service;
};

struct udp_service_key {
	struct cookie cookie;
	struct endpoint backend;
};

struct udp_service {
	struct endpoint service;
	__u32 check; /* all words of this and the key XORed (rule 7) */
};

/* counters: index of the per-CPU array */
enum counter {
	COUNTER_CONNECT = 0, /* connect() translated */
	COUNTER_SENDMSG, /* unconnected UDP datagrams translated */
	COUNTER_REFUSED, /* refused: the service has no endpoints */
	COUNTER_LEFT_TO_DROP, /* not translated: a Local policy without local endpoints */
	COUNTER_STALE, /* a slot was not the service's even after retries: refused */
	COUNTER_GUARD_DROP, /* packets dropped: a Local policy without local endpoints */
	COUNTER_MAX,
};

/* settings: index of the array of __u64 */
enum setting {
	SETTING_DROPPING = 0, /* number of services whose policy drops: 0 lets the guard pass all */
	SETTING_MAX,
};

_Static_assert(sizeof(struct endpoint) == 4 * ADDR_WORDS + 4, "endpoint: no padding");
_Static_assert(sizeof(struct frontend_key) == 4 * ADDR_WORDS + 4, "frontend_key: no padding");
_Static_assert(sizeof(struct frontend) == 16, "frontend: no padding");
_Static_assert(sizeof(struct service) == 8, "service: one aligned store");
_Static_assert(sizeof(struct slot) == 32, "slot: the array's stride for both families");
_Static_assert(sizeof(struct member_key) == 4 * ADDR_WORDS + 8, "member_key: no padding");
_Static_assert(sizeof(struct service_name) == 184, "service_name: no padding");
_Static_assert(sizeof(struct connected) == 56, "connected: the same size for both families");
_Static_assert(sizeof(struct association) == 8 * ADDR_WORDS + 20, "association: no padding");
_Static_assert(sizeof(struct sock_nat) == 8 * ADDR_WORDS + 24, "sock_nat: no padding");
_Static_assert(sizeof(struct udp_backend_key) == 12, "udp_backend_key: no padding");
_Static_assert(sizeof(struct udp_service_key) == 4 * ADDR_WORDS + 12,
	       "udp_service_key: no padding");

#endif /* PYPROXY_TYPES_H */
