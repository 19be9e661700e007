# SPDX-License-Identifier: Apache-2.0
"""What the packet path must know of devices: their addresses, and which lead out of the node.

Read from /proc, by ioctl and by netlink.py.
"""

from __future__ import annotations

import enum
import fcntl
import os
import socket
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel import netlink
from pyproxy.kernel.devices import Device, devices
from pyproxy.model import Address, Family, Prefix, family_of
from pyproxy.plan.local_detector import is_pod_interface
from pyproxy.plan.options import (
    Options,
    is_loopback,
    is_node_port_address,
    serves_everywhere,
)

PROC_NET = Path("/proc/thread-self/net")
SIOCGIFADDR = 0x8915  # include/uapi/linux/sockios.h
UPLINK, PODS, FAST, PEER, PORT, TUNNEL = 1, 2, 4, 8, 16, 32  # enum device_flag of bpf/types.h
# kinds of devices whose other end is a pod's or a virtual machine's
OF_PODS = frozenset({"veth", "tun", "netkit", "macvlan", "ipvlan"})
# what is made of devices that all lead to the same place
BONDS = frozenset({"bond", "team"})
# 127.0.0.1 stands for all of its network in the map
LOOPBACK, OTHER_LOOPBACK = b"\x7f\x00\x00\x01", b"\x7f\x00\x00\x02"
IPVS_DEVICE = "kube-ipvs0"
LOOPBACK_INDEX = 1  # LOOPBACK_IFINDEX of include/net/flow.h
NO_BRIDGE = bytes(6)
NODE = 0  # the key of what counts for devices without an address

# /proc/net/if_inet6: flags of addresses that must not be used (include/uapi/linux/if_addr.h)
UNUSABLE = 0x01 | 0x08 | 0x20 | 0x40  # temporary, DAD failed, deprecated, tentative
GLOBAL_SCOPE = 0x00


class NodeAddressFlag(enum.IntFlag):
    """What an address of the node is good for: enum node_address_flag of bpf/types.h."""

    PORTS = 1
    NETWORK = 2


class DeviceFacts(NamedTuple):
    """What is known of a device; addresses are all zeros, or b"", where there is none.

    `source` is its first address of one family. For an uplink, `route` is the device that routes
    lead by: itself, or the bond or bridge that it is a port of; `gateway` is that of the best
    default route by it; a TUNNEL's has none. `bridge` is the link-layer address of the bridge that
    a PORT belongs to.
    """

    source: Address
    flags: int
    route: int = 0
    gateway: Address = b""
    bridge: bytes = NO_BRIDGE


class _Bridge(NamedTuple):
    """A bridge, and its link-layer address."""

    ifindex: int
    address: bytes


def device_facts(
    family: Family, devices: Iterable[Device], options: Options, skipping: Mapping[int, int] = {}
) -> dict[int, DeviceFacts]:
    """Return what is known of each device by ifindex, and of the node as a whole by NODE.

    `skipping` has the flags FAST and PEER of those by which packets may skip the stack.

    The node's address is that of the device its default route leads by, or the one that the route
    names: that device may have none where hosts take part in routing. Else it is one of loopback's,
    as MASQUERADE has it (inet_select_addr), or the first one there is.
    """
    present = list(devices)
    sources = _sources(family, present)
    tunnels = {device.ifindex for device in present if not device.has_link_layer}
    hops = netlink.hops(family, tunnels)
    uplinks = _uplinks(hops)
    # default routes first, the best of them before all
    leading = sorted(hops, key=lambda hop: (not hop.is_default, hop.metric, hop.ifindex))
    gateways = {hop.ifindex: hop.gateway for hop in reversed(leading) if hop.is_default}
    direct = {each for each in tunnels.intersection(gateways) if not gateways[each]}
    names = {device.ifindex: device.name for device in present}
    bridged = _bridged(uplinks)
    facts = {
        device.ifindex: DeviceFacts(
            sources.get(device.name, bytes(family.address_bytes)),
            (UPLINK if device.ifindex in uplinks else 0)
            | (TUNNEL if device.ifindex in direct else 0)
            | (PORT if device.ifindex in bridged else 0)
            | (PODS if is_pod_interface(_name(device, names, bridged), options) else 0)
            # what leaves the node leaves by its uplink
            | skipping.get(device.ifindex, 0) & (~PEER if device.ifindex in uplinks else ~0),
            uplinks.get(device.ifindex, 0),
            gateways.get(device.ifindex, b""),
            bridged[device.ifindex].address if device.ifindex in bridged else NO_BRIDGE,
        )
        for device in present
    }
    own = _node_address(family, leading, sources, names)
    return facts | ({NODE: DeviceFacts(own, 0)} if own else {})


def _node_address(
    family: Family,
    leading: Iterable[netlink.Hop],
    sources: Mapping[str, Address],
    names: Mapping[int, str],
) -> Address | None:
    """Return what the node is called by; what leads to some network by a tunnel says nothing."""
    ways = (
        sources.get(names.get(hop.ifindex, "")) or hop.source
        for hop in leading
        if hop.is_default or not hop.is_direct
    )
    return next(filter(None, chain(ways, _loopback_addresses(family), sources.values())), None)


def local_prefixes(family: Family, devices: Iterable[Device]) -> set[Prefix]:
    """Return the node's addresses of a family, and the networks that are its own as a whole.

    kube-proxy in ipvs mode gives all addresses of services to a device of its own: they are none
    of the node's (datapath rule 21).
    """
    foreign = {device.ifindex for device in devices if device.name == IPVS_DEVICE}
    return netlink.local_prefixes(family, foreign)


def interface_addresses(family: Family) -> list[Address]:
    """Return the addresses of this node's devices of a family, loopback's among them."""
    found = local_prefixes(family, devices())
    return sorted(each.address for each in found if not _is_network(each))


def node_addresses(local: Iterable[Prefix], options: Options) -> dict[Address, NodeAddressFlag]:
    """Return which addresses there are, and which of them serve NodePorts (parity A7)."""
    return address_flags((each.address for each in local if not _is_network(each)), options)


def node_networks(local: Iterable[Prefix], options: Options) -> dict[Prefix, NodeAddressFlag]:
    """Return the networks that are the node's as a whole, and whether they serve NodePorts.

    All do or none (parity A7.1): nodePortAddresses name addresses that interfaces have. Loopback's
    network has rules of its own.
    """
    return {
        each: NodeAddressFlag.PORTS
        if serves_everywhere(family_of(each.address), options)
        else NodeAddressFlag(0)
        for each in local
        if _is_network(each) and not is_loopback(each.address)
    }


def _is_network(prefix: Prefix) -> bool:
    """Return whether a prefix holds more than one address."""
    return prefix.length < 8 * len(prefix.address)


def address_flags(own: Iterable[Address], options: Options) -> dict[Address, NodeAddressFlag]:
    """Return which of the node's own addresses serve NodePorts; no address stands for any."""
    options = options._replace(local_addresses=frozenset(own))
    found = {address: _address_flags(address, options) for address in options.local_addresses}
    # who binds none in particular binds those on which NodePorts are served, if there are any
    for address, flags in list(found.items()):
        if flags & NodeAddressFlag.PORTS:
            found[bytes(len(address))] = NodeAddressFlag.PORTS
    return found


def _address_flags(address: Address, options: Options) -> NodeAddressFlag:
    flags = NodeAddressFlag(0)
    if is_node_port_address(address, options):
        flags |= NodeAddressFlag.PORTS
    if address == LOOPBACK and is_node_port_address(OTHER_LOOPBACK, options):
        flags |= NodeAddressFlag.NETWORK
    return flags


def _uplinks(hops: Iterable[netlink.Hop]) -> dict[int, int]:
    """Return the devices that lead out of the node, with what they are made of.

    Each has the device by which routes lead there. A packet comes in by a bond's device, or a
    bridge's port, before it comes in by those. What a bond is made of leads where it does. Ports of
    bridges may be pods': only those of a default route's count, and none whose kind leads to pods
    and virtual machines.
    """
    ways = list(hops)
    found = {hop.ifindex: hop.ifindex for hop in ways}
    defaults = {hop.ifindex for hop in ways if hop.is_default}
    below = dict(found)
    while below:
        ports = [
            (port, route)
            for master, route in below.items()
            for port in netlink.ports(master)
            if port.of in BONDS or (port.kind not in OF_PODS and route in defaults)
        ]
        below = {port.ifindex: route for port, route in ports if port.ifindex not in found}
        found |= below
    return found


def _bridged(uplinks: Container[int]) -> dict[int, _Bridge]:
    """Return the bridges of the ports by which pods, or hosts outside, send to this node."""
    return {
        port.ifindex: _Bridge(bridge, address)
        for bridge, address in netlink.bridges().items()
        for port in netlink.ports(bridge)
        if port.kind in OF_PODS or port.ifindex in uplinks
    }


def _name(device: Device, names: Mapping[int, str], bridged: Mapping[int, _Bridge]) -> str:
    """Return by which device netfilter says that packets come: a bridge, not its port."""
    bridge = bridged.get(device.ifindex)
    return names.get(bridge.ifindex, device.name) if bridge else device.name


def _sources(family: Family, devices: Iterable[Device]) -> Mapping[str, Address]:
    if family is Family.IPV6:
        return _ipv6_sources()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = {device.name: _ipv4_source(sock, device.name) for device in devices}
    return {name: address for name, address in found.items() if address}


def _ipv4_source(sock: socket.socket, name: str) -> Address:
    """Return a device's primary IPv4 address, b"" if it has none (netdevice(7))."""
    try:
        answer = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("16s24x", os.fsencode(name)))
    except OSError:
        return b""
    return answer[20:24]


def _ipv6_sources() -> dict[str, Address]:
    found: dict[str, Address] = {}
    for line in _lines("if_inet6"):
        address, _, _, scope, flags, name = line.split()
        if int(scope, 16) == GLOBAL_SCOPE and not int(flags, 16) & UNUSABLE:
            found.setdefault(name, bytes.fromhex(address))
    return found


def _loopback_addresses(family: Family) -> Iterator[Address]:
    """Give the addresses of loopback that others may know; asked for only where they are needed."""
    for own in netlink.primary_addresses(family):
        if own.ifindex == LOOPBACK_INDEX:
            yield own.address


def _lines(name: str) -> list[str]:
    try:
        return (PROC_NET / name).read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return []
