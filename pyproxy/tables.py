# SPDX-License-Identifier: Apache-2.0
"""What the maps are to hold for one service port, in the vocabulary of bpf/types.h.

`plan` builds these records, `sync` compares them and decides what to write. They name
service ports by ServicePortName; ids, slots and generations are given by `sync`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyproxy.model import Address, Family, Prefix, Records, ServicePortName


class Kind(enum.IntEnum):
    """Why an address belongs to a service: `enum frontend_kind` of bpf/numbers.h."""

    CLUSTER_IP = 1
    EXTERNAL_IP = 2
    LOAD_BALANCER = 3
    NODE_PORT = 4


class BackendFlag(enum.IntFlag):
    """What is known of a backend: `enum backend_flag` of bpf/numbers.h.

    Members alone say which sets they are in.
    """

    LOCAL = 1
    READY = 2
    SERVING = 4
    TERMINATING = 8
    IN_LOCAL = 16
    IN_CLUSTER = 32


class ServiceFlag(enum.IntFlag):
    """What holds for a whole service port: `enum service_flag` of bpf/numbers.h."""

    INTERNAL_LOCAL = 1
    EXTERNAL_LOCAL = 2
    HAS_ENDPOINTS = 4
    HAS_LOCAL = 8


class SocketTranslation(enum.Enum):
    """Whose sockets are translated when they connect; what others send goes by packets."""

    ALL = "all"
    HOST = "host"


class ConnectionTimeouts(NamedTuple):
    """After how many seconds without a packet a connection of the packet path is forgotten.

    It may live one second longer.

    The names and defaults are KubeProxyConfiguration's `conntrack` (tcpEstablishedTimeout,
    tcpCloseWaitTimeout) and the kernel's (net.netfilter.nf_conntrack_udp_timeout and
    _udp_timeout_stream) where they have them. `tcp_opening` is for a handshake that is not
    complete, `tcp_close_wait` for a connection that one end has closed, `tcp_closed` for one
    that both have, or that was reset; `udp_stream` for UDP that was answered.
    """

    tcp_opening: int = 60
    tcp_established: int = 86_400
    tcp_close_wait: int = 3_600
    tcp_closed: int = 10
    udp: int = 30
    udp_stream: int = 120


class Conntrack(NamedTuple):
    """What the kernel's connection tracking is to be set to (parity A17.1, A17.2, A19.4).

    0 leaves the kernel's own value alone, for sizes and for timeouts; where `max_per_core` is 0,
    `min` is ignored too. `tcp_be_liberal` is only ever switched on. Timeouts are in seconds,
    rounded up, and may be longer than those of our own table.
    """

    max_per_core: int = 32_768
    min: int = 131_072
    tcp_be_liberal: bool = False
    tcp_established_timeout_s: int = 86_400
    tcp_close_wait_timeout_s: int = 3_600
    udp_timeout_s: int = 0
    udp_stream_timeout_s: int = 0


class PortRange(NamedTuple):
    """Ports from `first` on, `many` of them."""

    first: int
    many: int


class ConnectionTable(NamedTuple):
    """How many connections the packet path holds in each family, and for how long.

    `source_ports` are the first to stand for clients who must not be seen; None: the longest run
    that neither sockets get by themselves nor NodePorts have.
    """

    max_entries: int = 65_536
    timeouts: ConnectionTimeouts = ConnectionTimeouts()
    source_ports: PortRange | None = None


class FrontendKey(NamedTuple):
    """What a client dials. A NodePort's address is all zeros: it counts on the node addresses."""

    address: Address
    port: int
    protocol: int


class Frontend(NamedTuple):
    """A frontend and why it exists.

    `bindable`: a NodePort that is the service's own pods' port, too. Those on the host network
    listen on it.
    """

    key: FrontendKey
    kind: Kind
    bindable: bool = False


class Backend(NamedTuple):
    """What answers. `node` is the endpoint's nodeName, "" where it has none."""

    address: Address
    port: int
    flags: BackendFlag
    node: str


class Member(NamedTuple):
    """An endpoint that is still one of the service's, usable for new connections or not."""

    address: Address
    port: int
    flags: BackendFlag


class ServiceCounters(NamedTuple):
    """What a service port of one family has had on this node, since its id was given to it.

    Connections are counted by who was given a backend: a socket, or packets. `packets` and `bytes`
    (from the IP header on) are of those that were translated one by one, both ways; what the kernel
    has put together (GRO) is one.
    """

    socket_connections: int
    packet_connections: int
    packets: int
    bytes: int


class PortPlan(NamedTuple):
    """Everything about one service port in one family.

    `backends` are in the order local-only, both, cluster-only: the Local set is the first
    `local_count` of them, the Cluster set is `cluster_count` of them from `cluster_offset` on
    (datapath rule 16). `members` are all ready or serving endpoints, sorted (rule 18).
    `source_ranges` are who may ask a load balancer's address, empty where all may (parity A10).
    """

    name: ServicePortName
    family: Family
    created: str
    frontends: tuple[Frontend, ...]
    backends: Records[Backend]
    local_count: int
    cluster_offset: int
    cluster_count: int
    flags: ServiceFlag
    affinity_timeout_s: int
    members: Records[Member]
    source_ranges: tuple[Prefix, ...] = ()

    @property
    def local(self) -> tuple[Backend, ...]:
        """The backends that a Local traffic policy may use."""
        return self.backends[: self.local_count]

    @property
    def cluster(self) -> tuple[Backend, ...]:
        """The backends that a Cluster traffic policy may use."""
        return self.backends[self.cluster_offset : self.cluster_offset + self.cluster_count]
