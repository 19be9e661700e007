/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands where in the arrays that the agent and the programs share: their order is the
 * number. pyproxy names the same in the same order; a test compares. And the flags of services, and
 * what is counted for them.
 */
#ifndef PYPROXY_NUMBERS_H
#define PYPROXY_NUMBERS_H

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
	SERVICE_HAS_LOCAL = 8, /* some that a connection may get are on this node */
};

/* backend.flags and member.flags; pyproxy.tables.BackendFlag */
enum backend_flag {
	BACKEND_LOCAL = 1,
	BACKEND_READY = 2,
	BACKEND_SERVING = 4,
	BACKEND_TERMINATING = 8,
	BACKEND_IN_LOCAL = 16, /* members: one that a Local policy may use, ... */
	BACKEND_IN_CLUSTER = 32, /* ... and a Cluster policy (parity A6.3) */
};

/* stages: index of the program array */
enum stage {
	STAGE_INGRESS = 0, /* a packet that is worth a look, or begins again */
	STAGE_EGRESS,
	STAGE_OPEN, /* a connection begins */
	STAGE_JOIN, /* it has a backend */
	STAGE_REOPEN, /* one begins where another one stands that is over */
	STAGE_LEFT, /* one to what may have been a backend */
	STAGE_DIRECT, /* one to no service, which may clash with one to a service */
	STAGE_BRIDGED, /* a frame from one port of a bridge to another */
	STAGE_SOURCE, /* a connection gets an address of this node as source */
	STAGE_APART, /* somebody else uses a port that stands for a client (rule 9) */
	STAGE_ASIDE, /* a connection gives up the port that a direct one has already (rule 4) */
	STAGE_BACK, /* an answer leaves by another uplink than its client came by */
	STAGE_PASS, /* what answers this packet is none of ours */
	STAGE_REFUSE, /* the service has no endpoints */
	STAGE_REFRESH, /* a connection was not seen for a second */
	STAGE_ICMP, /* an ICMP message comes in or leaves */
	STAGE_HEADERS, /* a packet is not as most are: its headers have to be looked for */
	STAGE_STALE, /* what was found is another connection's */
	STAGE_FAST, /* a packet may skip the stack */
	STAGE_WAY, /* the stack has sent what was translated as it came in */
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

/* counters: index of the per-CPU array */
enum counter {
	COUNTER_CONNECT = 0, /* connect() translated */
	COUNTER_SENDMSG, /* unconnected UDP datagrams translated */
	COUNTER_REFUSED, /* refused: the service has no endpoints */
	COUNTER_BIND_REFUSED, /* bind() to a NodePort */
	COUNTER_LEFT_TO_DROP, /* not translated: a Local policy without local endpoints */
	COUNTER_STALE, /* an entry was another's even after retries: refused or dropped */
	COUNTER_PACKET_OPEN, /* connections of the packet path that began */
	COUNTER_PACKET_IN, /* packets translated at ingress */
	COUNTER_PACKET_OUT, /* packets translated at egress */
	COUNTER_PACKET_REFUSED, /* answered with RST or ICMP: the service has no endpoints */
	COUNTER_PACKET_DROP, /* dropped: a Local policy without local endpoints */
	COUNTER_PACKET_FILTERED, /* dropped: a source that loadBalancerSourceRanges do not have */
	COUNTER_PACKET_LEAK, /* dropped: to a ClusterIP and untranslated, about to leave (rule 10) */
	COUNTER_PACKET_REDIRECT, /* dropped: an ICMP redirect for a translated packet (rule 2) */
	COUNTER_PACKET_ERROR, /* ICMP errors about translated packets, translated at either side */
	COUNTER_PACKET_FRAGMENT, /* dropped: to a ClusterIP, without ports that are known (rule 25) */
	COUNTER_PACKET_CLASH, /* connections that got another source port (rules 4 and 5) */
	COUNTER_PACKET_PASS, /* entries that let replies to a frontend's address pass (rule 3) */
	COUNTER_PACKET_SOURCE, /* connections that got an address of this node as source */
	COUNTER_PACKET_APART, /* others from such a port that got another one (rule 9) */
	COUNTER_PACKET_BACK, /* packets sent back by the uplink that their client came by */
	COUNTER_PACKET_FAST, /* packets translated on both sides at once, past the stack */
	COUNTER_SOURCE_TAKEN, /* such ports that were a closed connection's a moment ago */
	COUNTER_SOURCE_EXHAUSTED, /* packets dropped: no source address or port is free */
	COUNTER_TABLE_FULL, /* packets dropped: no room for a new connection */
	COUNTER_TABLE_EVICTED, /* half-open or closed connections that made room for new ones */
	COUNTER_INSERT_FAILED, /* packets dropped: the kernel had no memory for an entry */
	COUNTER_MAX,
};

/*
 * begun: [service id], connections that began, by who was given a backend. traffic: [shard *
 * MAX_SERVICES + service id], packets that were translated, and their bytes from the IP header on.
 * An id that is handed out anew begins with zeros.
 */
struct begun {
	__u64 sockets;
	__u64 packets;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* moments: index of the array of __u64; when something last went wrong, in ticks, 0: never */
enum moment {
	MOMENT_TABLE_FULL = 0, /* with COUNTER_TABLE_FULL */
	MOMENT_SOURCE_EXHAUSTED, /* with COUNTER_SOURCE_EXHAUSTED */
	MOMENT_INSERT_FAILED, /* with COUNTER_INSERT_FAILED */
	MOMENT_MAX,
};

/* SETTING_DETECTOR: how this node's pods are recognised (parity A9.14) */
enum detector {
	DETECTOR_NONE = 0,
	DETECTOR_CIDRS, /* local_cidrs has their addresses */
	DETECTOR_DEVICES, /* DEVICE_PODS */
};

/* SETTING_POLICY */
enum policy {
	POLICY_MASQUERADE_ALL = 1, /* masqueradeAll: nobody sees who asks (parity A9.1) */
	POLICY_HIDE_CLIENTS = 2, /* where kube-proxy hides clients we do, though we need not */
	POLICY_NFTABLES = 4, /* as that mode of kube-proxy where it differs from iptables */
	POLICY_SAME_UPLINK = 16, /* answers leave by the uplink that their client came by */
	POLICY_PROTECT_PORTS = 8, /* no socket of the node may bind a NodePort */
};

/* SETTING_FAST_PATH */
enum fast_path {
	FAST_PATH_UDP = 1,
	FAST_PATH_TCP = 2, /* conntrack does not mind what it has not seen of a connection */
};

/* settings: index of the array of __u64 */
enum setting {
	SETTING_HOST_NETNS = 0, /* cookie: only sockets of this network namespace; 0: of all */
	SETTING_NETNS, /* cookie of the node's network namespace */
	SETTING_DETECTOR, /* enum detector */
	SETTING_POLICY, /* enum policy */
	SETTING_NODE_PORTS, /* NodePorts are within: the first one, and in the upper half how many */
	SETTING_LOCAL_PORTS, /* ports that sockets get by themselves: the first, and how many */
	SETTING_SOURCE_PORT_FIRST, /* ports that stand for clients' who must not be seen, ... */
	SETTING_SOURCE_PORT_COUNT, /* ... and how many of them */
	SETTING_ADDRESS_EPOCH, /* another one whenever the node has lost an address (rule 8) */
	SETTING_FRONTEND_EPOCH, /* another one whenever frontends lead elsewhere than before */
	SETTING_SOURCE_SEED, /* random: which of them comes first for a client */
	SETTING_TCP_OPENING, /* timeouts, in ticks */
	SETTING_TCP_ESTABLISHED,
	SETTING_TCP_CLOSE_WAIT,
	SETTING_TCP_CLOSED,
	SETTING_UDP,
	SETTING_UDP_STREAM,
	SETTING_PREFIXES, /* bit prefix_hash() of every frontend's address */
	SETTING_STRICT_PREFIXES, /* the same of cluster_cidrs' networks: 0 but in nftables mode */
	SETTING_BRIDGED_UNTIL, /* pods of this node reach each other by a bridge: the last tick of it */
	SETTING_FORWARD_MARK, /* what netfilter's FORWARD accepts: or-ed to requests' marks, 0: none */
	SETTING_FAST_PATH, /* enum fast_path: what may skip the stack, 0: nothing */
	SETTING_WAY_EPOCH, /* another one whenever devices, addresses or routes have changed */
	SETTING_MAX,
};

#endif /* PYPROXY_NUMBERS_H */
