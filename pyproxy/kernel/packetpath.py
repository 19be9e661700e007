# SPDX-License-Identifier: Apache-2.0
"""What the agent tells the packet path of one family: settings, devices, the cluster's CIDRs."""

from __future__ import annotations

import enum
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pyproxy.kernel.addresses import NODE, DeviceFacts, NodeAddressFlag
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.hops import Way
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.ports import local_port_range, source_ports
from pyproxy.model import Address, Family, Prefix, family_of
from pyproxy.plan.local_detector import detects_by_interface, has_detector
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import ConnectionTimeouts, PortRange, SocketTranslation

# settings that follow the frontends: see kernel/marks.py
PREFIXES = "prefixes"
STRICT_PREFIXES = "strict_prefixes"
NODE_PORT_RANGE = "node_ports"
# another one whenever the node has lost an address
ADDRESS_EPOCH = "address_epoch"
# another one whenever frontends lead elsewhere than before
FRONTEND_EPOCH = "frontend_epoch"
# the last tick at which pods of this node reach each other by a bridge, 0: they never do
BRIDGED_UNTIL = "bridged_until"
# what is or-ed to the marks of requests for netfilter's FORWARD to accept, 0: nothing
FORWARD_MARK = "forward_mark"
# what may skip the stack
FAST_PATH = "fast_path"
# another one whenever where packets go has changed
WAY_EPOCH = "way_epoch"

# enum setting of bpf/numbers.h, in order; the timeouts are named as in tables.ConnectionTimeouts
SETTINGS = (
    "host_netns",
    "netns",
    "detector",
    "policy",
    NODE_PORT_RANGE,
    "local_ports",
    "source_port_first",
    "source_port_count",
    ADDRESS_EPOCH,
    FRONTEND_EPOCH,
    "source_seed",
    *ConnectionTimeouts._fields,
    PREFIXES,
    STRICT_PREFIXES,
    BRIDGED_UNTIL,
    FORWARD_MARK,
    FAST_PATH,
    WAY_EPOCH,
)

TICK_NS = 1 << 24  # TICK_SHIFT of bpf/types.h
REFRESH_TICKS = 60  # of bpf/connection.h
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h


class Detector(enum.IntEnum):
    """How this node's pods are recognised: enum detector of bpf/numbers.h."""

    NONE = 0
    CIDRS = 1
    DEVICES = 2


class Policy(enum.IntFlag):
    """What holds for all services: enum policy of bpf/numbers.h."""

    MASQUERADE_ALL = 1
    HIDE_CLIENTS = 2
    NFTABLES = 4
    PROTECT_PORTS = 8
    SAME_UPLINK = 16


def ticks(seconds: int) -> int:
    """Return a time as the programs count it, rounded up."""
    return -(-seconds * 1_000_000_000 // TICK_NS)


def now_ticks() -> int:
    """Return the present time as the programs count it (now_ticks() of bpf/connection.h)."""
    return (time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) // TICK_NS) & 0xFFFFFFFF


def netns_cookie() -> int:
    """Return the cookie of this network namespace, as bpf_get_netns_cookie() gives it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)


def advance(settings: ArrayMap, epoch: str) -> None:
    """Make an epoch, which is a setting, another one than it was."""
    index = SETTINGS.index(epoch)
    settings.store(index, (settings.load(index) + 1) & 0xFFFFFFFF)


class PacketPath:
    """The maps by which the agent steers one family's packet path."""

    def __init__(self, pins: Pins) -> None:
        self._family = pins.family
        self._settings = ArrayMap(str(pins.maps / "settings"), write=True)
        self._devices = HashMap(str(pins.maps / "devices"), ("",), DeviceFacts._fields)
        self._cidrs = HashMap(str(pins.maps / "local_cidrs"), ("length", "addr"), ("",))
        self._addresses = HashMap(str(pins.maps / "node_addresses"), ("",), ("",))
        self._networks = HashMap(str(pins.maps / "node_networks"), ("length", "addr"), ("",))
        self._hops = HashMap(str(pins.maps / "hop_sources"), ("length", "ifindex", "addr"), ("",))
        # what was written last, to tell whether somebody else has changed it
        self._stored: dict[str, int] = {}
        self._own_cidrs: tuple[Prefix, ...] | None = None
        self._facts: dict[HashMap, dict[Any, Any]] = {}

    def close(self) -> None:
        """Close the maps."""
        self._settings.close()
        self._devices.close()
        self._cidrs.close()
        self._addresses.close()
        self._networks.close()
        self._hops.close()

    def configure(
        self,
        options: Options,
        translation: SocketTranslation,
        timeouts: ConnectionTimeouts,
        ports: PortRange | None = None,
    ) -> None:
        """Write the settings; call it before any program is attached.

        `ports` stand for clients' who must not be seen before all others do; they are
        source_ports() unless given.

        What the Node object says of pods is left as it was: write_options() says that.
        """
        self._store("policy", _policy(options))
        if not options.needs_node:
            self.write_options(options)
        first, last = local_port_range()
        ports = ports or source_ports((first, last))
        values = {
            FORWARD_MARK: options.forward_mark,
            "local_ports": first | (last - first + 1) << 32,
            "host_netns": netns_cookie() if translation is SocketTranslation.HOST else 0,
            "netns": netns_cookie(),
            "source_port_first": ports.first,
            "source_port_count": ports.many,
            "source_seed": secrets.randbits(32),
        }
        for name, value in values.items():
            self._store(name, value)
        self.write_timeouts(timeouts)

    def write_timeouts(self, timeouts: ConnectionTimeouts) -> None:
        """Say when connections are forgotten, those that there are too."""
        for name, seconds in timeouts._asdict().items():
            # a packet is written down only when the one before is REFRESH_TICKS old
            self._store(name, ticks(seconds) + REFRESH_TICKS)

    def write_options(self, options: Options) -> None:
        """Say how pods are recognised, and what holds for all services."""
        # of several the first counts, as in kube-proxy (parity A9.14)
        own = [c for c in options.local_cidrs if family_of(c.address) is self._family][:1]
        self._own_cidrs = tuple(own)
        self._write_cidrs(self._own_cidrs)
        self._store("detector", _detector(self._family, options))
        self._store("policy", _policy(options))

    def write_bridged(self, seconds: int) -> None:
        """Say for how many seconds more pods of this node reach each other by a bridge.

        Not a setting that mend() looks at: who says it says it again.
        """
        until = (now_ticks() + ticks(seconds)) & 0xFFFFFFFF
        self._settings.store(SETTINGS.index(BRIDGED_UNTIL), (until or 1) if seconds else 0)

    def write_fast_path(self, protocols: FastPath) -> None:
        """Say what may skip the stack; as write_bridged()."""
        self._settings.store(SETTINGS.index(FAST_PATH), int(protocols))

    def forget_ways(self) -> None:
        """Have the stack asked anew where connections' packets go."""
        advance(self._settings, WAY_EPOCH)

    def mend(self) -> list[str]:
        """Write settings and CIDRs that are not as they were written; return which those were."""
        wrong = [name for name, value in self._stored.items() if self._load(name) != value]
        for name in wrong:
            self._store(name, self._stored[name])
        if self._own_cidrs is not None and self._write_cidrs(self._own_cidrs):
            wrong.append("local_cidrs")
        return wrong

    def _store(self, name: str, value: int) -> None:
        self._stored[name] = int(value)
        self._settings.store(SETTINGS.index(name), value)

    def _load(self, name: str) -> int:
        return self._settings.load(SETTINGS.index(name))

    def _write_cidrs(self, wanted: Sequence[Prefix]) -> bool:
        """Make these the CIDRs; return whether there were others."""
        keys = {(cidr.length, cidr.address) for cidr in wanted}
        before = {key for key, _ in self._cidrs.items()}
        self._cidrs.update([(key, (1,)) for key in sorted(keys - before)])
        self._cidrs.delete(before - keys)
        return before != keys

    def write_addresses(self, wanted: Mapping[Address, NodeAddressFlag]) -> bool:
        """Say which addresses the node has; those that are not named are forgotten.

        Returns whether somebody else has changed what was said before.
        """
        elements = {(address,): (int(flags),) for address, flags in wanted.items()}
        gone = {key for key, _ in self._addresses.items()} - elements.keys()
        harmed = self._write_facts(self._addresses, elements)
        if gone:
            # not by _store(): mend() is another thread's
            advance(self._settings, ADDRESS_EPOCH)
        return harmed

    def write_networks(self, wanted: Mapping[Prefix, NodeAddressFlag]) -> bool:
        """Say which networks are the node's as a whole; as write_addresses()."""
        elements = {
            (network.length, network.address): (int(flags),) for network, flags in wanted.items()
        }
        return self._write_facts(self._networks, elements)

    def read_asked(self) -> set[Address]:
        """Return the addresses for which it has been said what the node asks them from."""
        return {address for (_, ifindex, address), _ in self._hops.items() if ifindex == NODE}

    def write_hop_sources(self, wanted: Mapping[Way, Address]) -> bool:
        """Say which of a device's addresses stand for clients, by NODE what the node asks from.

        As write_addresses().
        """
        elements = {
            (32 + way.to.length, way.ifindex, way.to.address): (a,) for way, a in wanted.items()
        }
        return self._write_facts(self._hops, elements)

    def write_devices(self, facts: Mapping[int, DeviceFacts]) -> bool:
        """Say what the devices are; as write_addresses()."""
        none = bytes(self._family.address_bytes)
        elements = {
            (index,): tuple(each._replace(gateway=each.gateway or none))
            for index, each in facts.items()
        }
        return self._write_facts(self._devices, elements)

    def _write_facts(self, into: HashMap, wanted: dict[Any, Any]) -> bool:
        """Make these the elements of a map."""
        before = dict(into.items())
        into.delete(before.keys() - wanted.keys())
        into.update([(key, value) for key, value in wanted.items() if before.get(key) != value])
        said, self._facts[into] = self._facts.get(into, before), wanted
        return said != before


def _detector(family: Family, options: Options) -> Detector:
    if not has_detector(family, options):
        return Detector.NONE
    return Detector.DEVICES if detects_by_interface(options) else Detector.CIDRS


def _policy(options: Options) -> Policy:
    found = Policy(0)
    if options.masquerade_all:
        found |= Policy.MASQUERADE_ALL
    if options.hide_clients:
        found |= Policy.HIDE_CLIENTS
    if options.mode is Mode.NFTABLES:
        found |= Policy.NFTABLES
    if options.protect_node_ports:
        found |= Policy.PROTECT_PORTS
    if options.same_uplink:
        found |= Policy.SAME_UPLINK
    return found
