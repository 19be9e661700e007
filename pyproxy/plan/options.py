# SPDX-License-Identifier: Apache-2.0
"""What a plan and a decision depend on besides Services and EndpointSlices.

The names are those of KubeProxyConfiguration where it has one. Where a flag, the file and the
Node object each have a word (bind address, "primary"), the agent settles it beforehand.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from pyproxy.model import Address, Family, Node, Prefix, family_of
from pyproxy.plan.cidr import in_any

IPV4_LOOPBACK = Prefix(bytes((127, 0, 0, 0)), 8)
IPV6_LOOPBACK = Prefix(bytes(15) + b"\x01", 128)


class Mode(enum.Enum):
    """Which of kube-proxy's modes is imitated where they disagree."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


class DetectLocalMode(enum.Enum):
    """How traffic of this node's pods is recognised (parity A9.14).

    NodeCIDR is by the node's podCIDRs: with_node() puts them into `local_cidrs`.
    """

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class Options(NamedTuple):
    """The node and the settings, as planning and deciding need them.

    `node_ips` are this node's own IPs, one a family at most, the primary family's first (A16.2);
    `bind_address` comes before what the Node has, b"" for none. `local_addresses` are all
    addresses of its interfaces, loopback ones excepted. `node_port_addresses` holds CIDRs only:
    "primary", which stands for the node IPs, is `node_ports_on_primary` (A7.2). `local_cidrs` are
    those of ClusterCIDR or NodeCIDR mode; a family without one has no detector. `local_interface`
    is the bridge's name or the name prefix of the two interface modes. `service_cidrs` are those of
    all ServiceCIDR objects, IPv4 ones first.

    Our own are `ipv6_localhost_node_ports`, since kube-proxy never serves ::1; `hide_clients`:
    backends of this node see no more of clients than with kube-proxy; `protect_node_ports`: no
    process of the node can bind a NodePort that is served; and `same_uplink`: a client that came
    by an uplink is answered by it, whichever one routes choose. `forward_accept`: netfilter's
    FORWARD is to let through what is translated, which bears `forward_mark`. `fast_path`: packets
    whose way is known skip the stack.
    """

    node_name: str
    zone: str = ""
    mode: Mode = Mode.IPTABLES
    masquerade_all: bool = False
    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    local_cidrs: tuple[Prefix, ...] = ()
    local_interface: str = ""
    node_ips: tuple[Address, ...] = ()
    bind_address: Address = b""
    local_addresses: frozenset[Address] = frozenset()
    node_port_addresses: tuple[Prefix, ...] = ()
    localhost_node_ports: bool = True
    ipv6_localhost_node_ports: bool = False
    node_ports_on_primary: bool = False
    hide_clients: bool = False
    protect_node_ports: bool = True
    same_uplink: bool = True
    forward_accept: bool = False
    fast_path: bool = False
    masquerade_bit: int = 14
    service_cidrs: tuple[Prefix, ...] = ()
    allow_service_external_ips: bool = True

    @property
    def needs_node(self) -> bool:
        """Whether who is a pod, or where NodePorts are served, is said by the Node object."""
        return self.node_ports_on_primary or self.detect_local_mode is DetectLocalMode.NODE_CIDR

    @property
    def forward_mark(self) -> int:
        """What requests bear that FORWARD is to accept, 0 for nothing (parity A9.11, A9.12)."""
        return 1 << self.masquerade_bit if self.forward_accept else 0

    def node_ip(self, family: Family) -> Address:
        """Return the node's IP of a family, or the loopback address kube-proxy falls back to.

        Source: parity A16.2.
        """
        own = (address for address in self.node_ips if family_of(address) is family)
        return next(own, b"\x7f\x00\x00\x01" if family is Family.IPV4 else IPV6_LOOPBACK.address)


def with_node(options: Options, node: Node | None) -> Options:
    """Return the options as this node's own Node object makes them; None: it is gone.

    Only the zone goes with a Node that is gone; its addresses and podCIDRs stay, and so they do if
    it has none any more: kube-proxy would end where podCIDRs change or are missing, which helps
    nobody whose pods are still there (parity A5.5, A16.4).
    """
    if node is None:
        return options._replace(zone="")
    if options.detect_local_mode is DetectLocalMode.NODE_CIDR and node.pod_cidrs:
        options = options._replace(local_cidrs=node.pod_cidrs)
    if node.addresses:
        found = node_ips(options.bind_address, node.addresses)
        options = options._replace(node_ips=found)
    return options._replace(zone=node.zone)


def lacks_pod_cidrs(options: Options) -> bool:
    """Whether no pod can be recognised, since the Node has no podCIDRs (parity A9.14)."""
    return options.detect_local_mode is DetectLocalMode.NODE_CIDR and not options.local_cidrs


def node_ips(bind_address: Address, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    """Return a node's IPs, one a family, that of its primary family first (parity A16.2).

    A bind address (b"": none) is the node's IP of its family, whatever the Node has, and its
    family is the primary one.
    """
    firsts: dict[Family, Address] = {}
    for address in (bind_address, *addresses) if bind_address else addresses:
        firsts.setdefault(family_of(address), address)
    return tuple(firsts.values())


def is_loopback(address: Address) -> bool:
    """Whether an address is in 127.0.0.0/8 or is ::1."""
    return in_any(address, (IPV4_LOOPBACK, IPV6_LOOPBACK))


def is_local(address: Address, options: Options) -> bool:
    """Whether the node itself has an address: the kernel's `addrtype LOCAL`."""
    return address in options.local_addresses or is_loopback(address)


def is_node_port_address(address: Address, options: Options) -> bool:
    """Whether NodePorts are served on an address of this node (parity A7.1, A7.3, A7.5)."""
    if not is_local(address, options):
        return False
    if is_loopback(address):
        return _localhost_is_served(address, options)
    cidrs = _node_port_cidrs(family_of(address), options)
    return not cidrs or in_any(address, cidrs)


def serves_everywhere(family: Family, options: Options) -> bool:
    """Whether NodePorts are served on whatever the kernel calls local (parity A7.1)."""
    return not _node_port_cidrs(family, options)


def node_port_addresses(family: Family, options: Options) -> tuple[Address, ...]:
    """Return the node's addresses of a family on which NodePorts are served, sorted.

    Loopback addresses are not among them: `is_node_port_address` knows about those.
    """
    own = (address for address in options.local_addresses if family_of(address) is family)
    return tuple(sorted(address for address in own if is_node_port_address(address, options)))


def health_check_addresses(
    family: Family, options: Options, own: Iterable[Address]
) -> tuple[Address, ...]:
    """Return where health-check node ports of a family are served, all zeros for everywhere.

    `own` are the addresses of the node's interfaces, loopback's included: nodePortAddresses are
    matched with them as they are (parity A11.6), and may match none.
    """
    cidrs = _node_port_cidrs(family, options)
    if not cidrs:
        return (bytes(family.address_bytes),)
    matching = {each for each in own if family_of(each) is family and in_any(each, cidrs)}
    return tuple(sorted(matching))


def _node_port_cidrs(family: Family, options: Options) -> tuple[Prefix, ...]:
    """Return nodePortAddresses of a family, () where every address counts (parity A7.1)."""
    wanted = options.node_port_addresses
    if options.node_ports_on_primary:
        wanted = tuple(Prefix(ip, 8 * len(ip)) for ip in options.node_ips if not is_loopback(ip))
    cidrs = tuple(p for p in wanted if family_of(p.address) is family)
    return () if any(cidr.length == 0 for cidr in cidrs) else cidrs


def _localhost_is_served(address: Address, options: Options) -> bool:
    """Whether NodePorts answer on a loopback address: iptables mode and IPv4 only (A7.5).

    With CIDRs, kube-proxy matches the addresses that interfaces have, and lo has 127.0.0.1.
    """
    if family_of(address) is Family.IPV6:
        return options.ipv6_localhost_node_ports
    if options.mode is not Mode.IPTABLES or not options.localhost_node_ports:
        return False
    cidrs = _node_port_cidrs(Family.IPV4, options)
    return not cidrs or (address == b"\x7f\x00\x00\x01" and in_any(address, cidrs))
