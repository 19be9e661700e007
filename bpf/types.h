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
#include "numbers.h"

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
	__u32 flags; /* enum frontend_flag */
};

enum frontend_flag {
	FRONTEND_FILTERED = 1, /* only for clients in `sources` (parity A10.1) */
	FRONTEND_BINDABLE = 2, /* a NodePort on which the service's own pods listen as well */
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
	struct endpoint service; /* by another of its addresses another policy may hold */
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
 * a mark says "perhaps", none says "no". Frontends have a bit each, frontend_bit(): of 10,000 of
 * them else one packet in seven would be looked up that is no service's. The agent clears one of
 * `busy` at a time and marks again what is alive, so that both together say what they must.
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
	LIFE_OWN = 8192, /* its client is this node: requests only leave, answers only come in */
	LIFE_MARKED = 16384, /* requests bear SETTING_FORWARD_MARK */
	LIFE_WAY_REQUEST = 32768, /* request_way is where the stack has sent those, ... */
	LIFE_WAY_REPLY = 65536, /* ... reply_way the same of answers */
	LIFE_LASTS = 131072, /* one of them was known before: it is worth asking for */
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
	__u16 source_epoch; /* SETTING_ADDRESS_EPOCH when the node was known to have the source */
	__u16 frontend_epoch; /* SETTING_FRONTEND_EPOCH when the frontend led to the service */
	__u32 uplink; /* by which its client comes, as device.route; 0: by none */
	__u16 request_way; /* as LIFE_WAY_REQUEST says: where in ways */
	__u16 reply_way;
	__u16 way_epoch; /* SETTING_WAY_EPOCH when they were known */
	__u16 syn_seq; /* TCP: of the number of its client's last SYN the upper half */
	__u32 spare[17 - 4 * ADDR_WORDS];
};

/* fragments: what all fragments of a packet have, as a hook sees it */
struct fragment_key {
	struct addr src;
	struct addr dst;
	__u32 id; /* as it lies in the packet */
	__u8 proto; /* IPv4 only */
	__u8 side; /* enum side */
	__u16 pad;
};

struct fragment {
	__u16 src_port;
	__u16 dst_port;
	__u32 proto; /* of the transport */
	__u32 seen; /* when the first one came, in ticks */
	__u32 check; /* all words of this and the key XORed (rule 7) */
};

/* node_addresses: the addresses of this node; 127.0.0.1 stands for all of 127.0.0.0/8 */
enum node_address_flag {
	NODE_ADDRESS_PORTS = 1, /* NodePorts are served on it (parity A7) */
	NODE_ADDRESS_NETWORK = 2, /* and on all of 127.0.0.0/8 */
};

/* devices: [ifindex], what the packet path must know of a device */
struct device {
	struct addr source; /* the address that stands for clients who must not be seen, or 0 */
	__u32 flags; /* enum device_flag */
	__u32 route; /* by which device routes lead there: the bond or bridge that it is a port of */
	struct addr gateway; /* of the default route by it, or 0 */
	__u8 bridge[6]; /* DEVICE_PORT: the link-layer address of the bridge that it is a port of */
	__u8 pad[2];
};

enum device_flag {
	DEVICE_UPLINK = 1, /* leads to hosts that are no pods of this node */
	DEVICE_PODS = 2, /* what comes by it comes from pods (parity A9.14, the interface modes) */
	DEVICE_FAST = 4, /* what comes by it may skip the stack: no program of others is left out */
	DEVICE_PEER = 8, /* nor by what leaves straight to its other end, in another namespace */
	DEVICE_PORT = 16, /* it is a port, and what is for its bridge is for this node */
	DEVICE_TUNNEL = 32, /* no link layer: a default route leads by it without a gateway */
};

/*
 * ways: where the stack sends packets that it forwards, so that others go there without it. Many
 * connections share one; it is never written for another next hop while one may go by it.
 */
struct way {
	__u32 ifindex; /* 0: none */
	__u16 mtu; /* of the route, in bytes */
	__u8 dst[6]; /* Ethernet addresses of the next hop and of the device */
	__u8 src[6];
	__u16 flags; /* DEVICE_PEER: straight to the device's other end */
	__u32 check; /* all words before XORed (rule 7) */
	__u64 seen; /* when some connection was last sent there by the stack, in ticks */
};

/* hop_sources: a device's address for clients, by where they ask; of device 0 the node's own */
struct hop_key {
	__u32 length; /* of the network, and 32 */
	__u32 ifindex;
	struct addr addr;
};

/* local_cidrs: which clients are the cluster's own (parity A9.14) */
struct cidr_key {
	__u32 length;
	struct addr addr;
};

/* cluster_cidrs: what becomes of what is for no service of an address (parity A8.6, A8.7) */
enum strictness {
	STRICT_REFUSE = 1, /* a ClusterIP, by a port or protocol that it does not have */
	STRICT_DROP, /* a ServiceCIDR, whose address is nobody's */
	STRICT_NOTHING, /* a ClusterIP in iptables mode: only what has no ports is looked up */
};

/*
 * affinity: which backend a client of a service had last (parity A6). A packet's client is its
 * source address; a socket's, which may have none yet, its network namespace.
 */
struct affinity_key {
	__u32 service;
	__u32 netns[2]; /* cookie; 0 for packets */
	struct addr addr; /* 0 for sockets */
};

struct affinity {
	struct endpoint backend;
	__u32 seen; /* when its last connection began, in ticks */
	__u32 check; /* all words of this and the key XORed (rule 7) */
};

/*
 * kept_ports: [port >> 6], bit port & 63: it is reserved and stands for no client (rules 3 and 9).
 * Then the same again: which of those the agent has put there.
 */
#define KEPT_PORTS (2 * 65536 / 64)

/* sources: who may ask a service whose frontend is filtered */
struct source_key {
	__u32 length; /* of the network, and 32 */
	__u32 service;
	struct addr addr;
};

/* scratch: an ICMP error with as much as it may quote (RFC 1812 4.3.2.3, RFC 4443 2.4 c) */
struct scratch {
	__u8 bytes[1536];
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
_Static_assert(sizeof(struct udp_backend_key) == 4 * ADDR_WORDS + 12, "udp_backend_key: padding");
_Static_assert(sizeof(struct mark) == 8, "mark: the array's stride");
_Static_assert(sizeof(struct nat_key) == 8 * ADDR_WORDS + 8, "nat_key: no padding");
_Static_assert(sizeof(struct connection) == 128, "connection: two cache lines");
_Static_assert(sizeof(struct udp_service_key) == 4 * ADDR_WORDS + 12,
	       "udp_service_key: no padding");

#endif /* PYPROXY_TYPES_H */
