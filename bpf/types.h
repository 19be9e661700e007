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
#define CONNECTED_SPARE_WORDS (1 + 2 * (4 - ADDR_WORDS))

struct connected {
	__u32 family; /* whose addresses these are: 4 or 6 */
	__u32 check; /* all words of this and the cookie XORed (rule 7) */
	__u32 mark; /* where the backend's mark is in socket_marks */
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

/*
 * marks: [endpoint_hash()], is a packet to (at ingress) or from (at egress) this end worth a
 * look-up? Most traffic is no service's, and one load says so. Different ends share a mark:
 * a mark says "perhaps", none says "no". The agent clears one of `busy` at a time and marks
 * again what is alive, so that the two together always say at least what they must.
 */
struct mark {
	__u8 frontend;
	__u8 busy[2]; /* an end of a connection of the packet path */
	__u8 spare[5];
};

/* Which hook a packet passes. */
enum side {
	SIDE_INGRESS = 0,
	SIDE_EGRESS,
};

/*
 * socket_marks: [hash of address and port] is some connected socket's backend there? One map
 * for both families, as `connected`. Two bytes as in struct mark, for the same reason.
 */
struct socket_mark {
	__u8 busy[2];
	__u8 spare[6];
};

/* nat: a packet as a hook sees it, before translation */
struct nat_key {
	struct addr src;
	struct addr dst;
	__u16 src_port;
	__u16 dst_port;
	__u8 proto;
	__u8 side; /* enum side */
	__u16 pad;
};

/* What a packet is to its connection. */
enum role {
	ROLE_REQUEST = 1, /* the client's */
	ROLE_REPLY, /* the backend's */
	ROLE_PASS, /* nobody's whom we translate, though its destination is a frontend */
};

struct nat_entry {
	__u32 connection; /* its number */
	__u32 role; /* enum role */
};

/* connection.life, lower half; the upper half is when its last packet came, in ticks */
enum life {
	LIFE_CLAIMED = 1, /* the record is some connection's, ... */
	LIFE_READY = 2, /* ... and complete */
	LIFE_UDP = 4,
	LIFE_REPLIED = 8, /* the backend has answered */
	LIFE_ESTABLISHED = 16, /* and the client has acknowledged that; UDP: and it goes on */
	LIFE_FIN_CLIENT = 32,
	LIFE_FIN_BACKEND = 64,
	LIFE_RESET = 128,
	LIFE_CLASH = 256, /* the backend answers for another connection (rule 4) */
	LIFE_PASS = 512, /* has no backend: its packets are left alone (rule 3) */
	LIFE_SOURCE_WANTED = 1024, /* the backend is to see an address of this node */
	LIFE_SOURCE_CLAIMED = 2048, /* somebody chooses it just now */
	LIFE_SOURCE_READY = 4096, /* `source` is it */
};

/* stages: index of the program array */
enum stage {
	STAGE_INGRESS = 0, /* a packet that is worth a look, or begins again */
	STAGE_EGRESS,
	STAGE_OPEN, /* a connection begins */
	STAGE_REOPEN, /* one begins where another one stands that is over */
	STAGE_DIRECT, /* one to no service, which may clash with one to a service */
	STAGE_SOURCE, /* a connection gets an address of this node as source */
	STAGE_PASS, /* what answers this packet is none of ours */
	STAGE_REFUSE, /* the service has no endpoints */
	STAGE_REFRESH, /* a connection was not seen for a second */
	STAGE_ICMP_OUT, /* an ICMP packet leaves */
	STAGE_STALE, /* what was found is another connection's */
	STAGE_ADOPT, /* nothing was found; empty but for while a former table is left */
	STAGE_ADOPT_1, /* nor in that; the same for one that is older, and so on */
	STAGE_ADOPT_2,
	STAGE_ADOPT_3,
	STAGES,
};

/* other_family: index of the program array */
enum entry_point {
	ENTRY_INGRESS = 0,
	ENTRY_INGRESS_L3,
	ENTRY_EGRESS,
	ENTRY_EGRESS_L3,
	ENTRIES,
};

/* Time is counted in ticks of 2^24 ns (16.8 ms) of CLOCK_MONOTONIC_COARSE, modulo 2^32. */
#define TICK_SHIFT 24

/*
 * connections: all that is known of one connection of the packet path, once. Two to four
 * entries of `nat` lead to it: its requests and replies as they come in and as they leave.
 * Versioned apart from all other layouts (rule 23): fields are only ever added, in `spare`.
 */
struct connection {
	__u64 life; /* the record changes owners by compare-and-exchange of this word */
	struct endpoint client;
	struct endpoint frontend;
	struct endpoint backend;
	__u16 client_port; /* towards the backend: another one than the client's after a clash */
	__u8 proto;
	__u8 pad;
	__u32 check; /* connection_check(): the fields above and below are of one connection */
	__u32 service; /* 0: a direct connection that clashed */
	__u32 generation; /* of the service when the backend was last known as a member */
	struct endpoint source;
	__u32 source_check;
	__u32 spare[21 - 4 * ADDR_WORDS];
};

/* devices: [ifindex], what the packet path must know of a device */
struct device {
	struct addr source; /* the address that stands for clients who must not be seen, or 0 */
	__u32 flags; /* enum device_flag */
};

enum device_flag {
	DEVICE_UPLINK = 1, /* leads to hosts that are no pods of this node */
};

/* local_cidrs: which clients are the cluster's own (parity A9.14) */
struct cidr_key {
	__u32 length;
	struct addr addr;
};

/* scratch: an ICMP error with as much as it may quote (RFC 1812 4.3.2.3, RFC 4443 2.4 c) */
struct scratch {
	__u8 bytes[1536];
};

/* counters: index of the per-CPU array */
enum counter {
	COUNTER_CONNECT = 0, /* connect() translated */
	COUNTER_SENDMSG, /* unconnected UDP datagrams translated */
	COUNTER_REFUSED, /* refused: the service has no endpoints */
	COUNTER_LEFT_TO_DROP, /* not translated: a Local policy without local endpoints */
	COUNTER_STALE, /* an entry was another's even after retries: refused or dropped */
	COUNTER_PACKET_OPEN, /* connections of the packet path that began */
	COUNTER_PACKET_IN, /* packets translated at ingress */
	COUNTER_PACKET_OUT, /* packets translated at egress */
	COUNTER_PACKET_REFUSED, /* answered with RST or ICMP: the service has no endpoints */
	COUNTER_PACKET_DROP, /* dropped: a Local policy without local endpoints */
	COUNTER_PACKET_LEAK, /* dropped: to a ClusterIP and untranslated, about to leave (rule 10) */
	COUNTER_PACKET_REDIRECT, /* dropped: an ICMP redirect for a translated packet (rule 2) */
	COUNTER_PACKET_CLASH, /* connections that got another source port (rules 4 and 5) */
	COUNTER_PACKET_PASS, /* entries that let replies to a frontend's address pass (rule 3) */
	COUNTER_PACKET_SOURCE, /* connections that got an address of this node as source */
	COUNTER_SOURCE_EXHAUSTED, /* packets dropped: no source address or port is free */
	COUNTER_TABLE_FULL, /* packets dropped: no room for a new connection */
	COUNTER_TABLE_EVICTED, /* half-open or closed connections that made room for new ones */
	COUNTER_INSERT_FAILED, /* packets dropped: the kernel had no memory for an entry */
	COUNTER_MAX,
};

/* moments: index of the array of __u64; when something last went wrong, in ticks, 0: never */
enum moment {
	MOMENT_TABLE_FULL = 0, /* with COUNTER_TABLE_FULL */
	MOMENT_SOURCE_EXHAUSTED, /* with COUNTER_SOURCE_EXHAUSTED */
	MOMENT_INSERT_FAILED, /* with COUNTER_INSERT_FAILED */
	MOMENT_MAX,
};

/* settings: index of the array of __u64 */
enum setting {
	SETTING_HOST_NETNS = 0, /* cookie: only sockets of this network namespace; 0: of all */
	SETTING_HAS_LOCAL_CIDRS, /* whether local_cidrs says who is a client of the cluster */
	SETTING_SOURCE_PORT_FIRST, /* ports that stand for clients' who must not be seen, ... */
	SETTING_SOURCE_PORT_COUNT, /* ... and how many of them */
	SETTING_TCP_OPENING, /* timeouts, in ticks */
	SETTING_TCP_ESTABLISHED,
	SETTING_TCP_CLOSE_WAIT,
	SETTING_TCP_CLOSED,
	SETTING_UDP,
	SETTING_UDP_STREAM,
	SETTING_PREFIXES, /* bit prefix_hash() of every frontend's address */
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
_Static_assert(sizeof(struct mark) == 8, "mark: the array's stride");
_Static_assert(sizeof(struct nat_key) == 8 * ADDR_WORDS + 8, "nat_key: no padding");
_Static_assert(sizeof(struct connection) == 128, "connection: two cache lines");
_Static_assert(sizeof(struct udp_service_key) == 4 * ADDR_WORDS + 12,
	       "udp_service_key: no padding");

#endif /* PYPROXY_TYPES_H */
