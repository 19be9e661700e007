# SPDX-License-Identifier: Apache-2.0
"""What the packet path must know of devices: their addresses, and which lead out of the node.

Read from /proc and by ioctl: pyroute2 would cost every agent 0.15 s at start and 20 MB for good.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel.devices import Device
from pyproxy.model import Address, Family

PROC_NET = Path("/proc/thread-self/net")
SIOCGIFADDR = 0x8915  # include/uapi/linux/sockios.h
RTF_GATEWAY = 2  # include/uapi/linux/route.h
UPLINK = 1  # enum device_flag of bpf/types.h
NODE = 0  # the key of what counts for devices without an address

# /proc/net/if_inet6: flags of addresses that must not be used (include/uapi/linux/if_addr.h)
UNUSABLE = 0x01 | 0x08 | 0x20 | 0x40  # temporary, DAD failed, deprecated, tentative
GLOBAL_SCOPE = 0x00


class DeviceFacts(NamedTuple):
    """A device's first address of one family (all zeros: none), and its flags."""

    source: Address
    flags: int


class _Routes(NamedTuple):
    """Devices with routes through a gateway or a default route, and the latter's, best first."""

    gateways: frozenset[str]
    defaults: tuple[str, ...]


def device_facts(family: Family, devices: Iterable[Device]) -> dict[int, DeviceFacts]:
    """Return what is known of each device by ifindex, and of the node as a whole by NODE.

    The node's address is that of the device its default route leads by, else the first one
    there is.
    """
    present = list(devices)
    sources = _sources(family, present)
    routes = _routes(family)
    facts = {
        device.ifindex: DeviceFacts(
            sources.get(device.name, bytes(family.address_bytes)),
            UPLINK if device.name in routes.gateways else 0,
        )
        for device in present
    }
    order = (*routes.defaults, *sorted(routes.gateways), *sources)
    own = next((sources[name] for name in order if name in sources), None)
    return facts | ({NODE: DeviceFacts(own, 0)} if own else {})


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


def _routes(family: Family) -> _Routes:
    table = _ipv4_routes() if family is Family.IPV4 else _ipv6_routes()
    gateways = frozenset(name for name, _, _ in table)
    defaults = sorted((metric, name) for name, is_default, metric in table if is_default)
    return _Routes(gateways, tuple(name for _, name in defaults))


def _ipv4_routes() -> list[tuple[str, bool, int]]:
    """Return device, whether it is a default route, and metric of routes that lead out."""
    rows = [line.split() for line in _lines("route")[1:]]
    return [
        (row[0], row[1] == row[7] == "00000000", int(row[6]))
        for row in rows
        if int(row[3], 16) & RTF_GATEWAY or row[1] == row[7] == "00000000"
    ]


def _ipv6_routes() -> list[tuple[str, bool, int]]:
    rows = [line.split() for line in _lines("ipv6_route")]
    return [
        (row[9], row[1] == "00", int(row[5], 16))
        for row in rows
        if int(row[8], 16) & RTF_GATEWAY or (row[1] == "00" and row[9] != "lo")
    ]


def _lines(name: str) -> list[str]:
    try:
        return (PROC_NET / name).read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return []
