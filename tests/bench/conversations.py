# SPDX-License-Identifier: Apache-2.0
"""Packets of every kind that a node's programs see on its uplink, and the connections behind them.

Two services have NodePorts: "near" has its backend on the node, "far" has it elsewhere, so that a
source of the node's own stands for its clients. A connection to each is made by the programs
themselves, by BPF_PROG_TEST_RUN; its packets are what is timed later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import PyproxyError
from pyproxy.model import Family
from tests.bench import objects
from tests.bench.dialled import TARGET_PORT
from tests.datapath import packets, prog_run
from tests.datapath.packets import ACK, ETHERNET_BYTES, IP_BYTES, SYN, End
from tests.lab import netns
from tests.lab.hosts import Node

INGRESS, EGRESS = SIDES = "ingress", "egress"
NEAR, FAR = "near", "far"
NODE_PORTS = {NEAR: 30080, FAR: 30081}
CLUSTER_IPS = {
    NEAR: objects.Addresses("10.96.0.81", "fd00:10:96::81"),
    FAR: objects.Addresses("10.96.0.82", "fd00:10:96::82"),
}
# No pod has them: no packet of these leaves for anywhere.
BACKENDS = {
    NEAR: objects.Addresses("10.244.1.77", "fd00:10:244:1::77"),
    FAR: objects.Addresses("10.244.9.77", "fd00:10:244:9::77"),
}
ELSEWHERE = "elsewhere"
CLIENT = objects.Addresses("10.0.0.200", "fd00:10::200")
CLIENT_PORTS = {NEAR: 40_000, FAR: 40_001}
NO_SERVICES_PORT = 22
# Clients that are there for one connection each: an address for a series of ports.
PASSERS_BY = {
    Family.IPV4: ipaddress.ip_address("10.77.0.0"),
    Family.IPV6: ipaddress.ip_address("fd00:77::"),
}
FIRST_PORT = 1024
ONE_BYTE = 0x100  # a step that changes one byte of a port, and so comes back to it


class Kind(NamedTuple):
    """What a packet is to a connection, at a side."""

    side: str
    name: str

    @property
    def begins(self) -> bool:
        """Whether it is the first of its connection."""
        return self.name == "begin"

    @property
    def is_ours(self) -> bool:
        """Whether it is translated."""
        return self.name != "not-ours"

    @property
    def steps(self) -> tuple[int, int]:
        """How much is added to the bytes of its ports for each run; see rewind.py.

        What begins a connection does so each time. What is not ours is told by the end that is
        on this node, and with many services more of those look like some service's at first: it
        has 256 of them by turns, and costs what it does on average.
        """
        if self.begins:
            return 1, 0
        if self.is_ours:
            return 0, 0
        return (0, ONE_BYTE) if self.side == INGRESS else (ONE_BYTE, 0)

    def __str__(self) -> str:
        return f"{self.side}-{self.name}"


KINDS = tuple(
    Kind(side, name)
    for side in (INGRESS, EGRESS)
    for name in ("not-ours", "request", "reply", "begin")
)


def served(node: Node) -> Iterator[list[objects.Object]]:
    """Yield both services with their slices."""
    ports = {"TCP": TARGET_PORT}
    for name, place in ((NEAR, node.name), (FAR, ELSEWHERE)):
        yield [
            objects.service(name, CLUSTER_IPS[name], list(ports), NODE_PORTS[name]),
            objects.slice_of(name, "IPv4", [BACKENDS[name].ipv4], ports, place),
            objects.slice_of(name, "IPv6", [BACKENDS[name].ipv6], ports, place),
        ]


class Uplink(NamedTuple):
    """A node's device and its programs, by side."""

    namespace: Path
    ifindex: int
    mac: bytes
    programs: dict[str, int]

    def run(self, side: str, frame: bytes) -> bytes:
        """Run a side's program on a frame and return it as it is then."""

        def work() -> bytes:
            return prog_run.run(self.programs[side], frame, ifindex=self.ifindex).data

        return netns.inside(self.namespace, work)


def device_facts(namespace: Path, name: str) -> tuple[int, bytes]:
    """Return the number and the hardware address of a namespace's Ethernet device."""

    def work() -> tuple[int, bytes]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((name, 0))
            return socket.if_nametoindex(name), sock.getsockname()[4]

    return netns.inside(namespace, work)


class Conversations:
    """The connections of one family on a node, and frames of every kind."""

    def __init__(self, uplink: Uplink, node: Node, family: Family) -> None:
        self.uplink = uplink
        self.family = family
        self._node = ipaddress.ip_address(node.address(family.value)).packed
        self._source = End(b"", 0)

    def begin(self) -> None:
        """Make both connections; raises PyproxyError where a packet is not translated."""
        client, at, backend = self._ends(NEAR)
        self._passes(INGRESS, (client, at, SYN), (client, backend))
        self._passes(EGRESS, (backend, client, SYN | ACK), (at, client))
        self._passes(INGRESS, (client, at, ACK), (client, backend))
        client, at, backend = self._ends(FAR)
        self._passes(INGRESS, (client, at, SYN), (client, backend))
        left = self.uplink.run(EGRESS, self._frame(client, backend, SYN))
        self._source, _ = ends_of(left, self.family)
        if self._source.address != self._node:
            raise PyproxyError(f"the client of {FAR} has no source on the node")
        self._passes(INGRESS, (backend, self._source, SYN | ACK), (backend, client))
        self._passes(EGRESS, (backend, client, SYN | ACK), (at, client))
        self._passes(EGRESS, (client, backend, ACK), (self._source, backend))

    def frame(self, kind: Kind, series: int) -> bytes:
        """Return a packet of a kind; one that begins is the first of a series of ports."""
        here, client = End(self._node, NO_SERVICES_PORT), self._ends(NEAR)[0]
        makers: dict[Kind, Callable[[], bytes]] = {
            Kind(INGRESS, "not-ours"): lambda: self._frame(client, here, ACK),
            Kind(INGRESS, "request"): lambda: self._frame(client, self._ends(NEAR)[1], ACK),
            Kind(INGRESS, "reply"): lambda: self._frame(self._ends(FAR)[2], self._source, ACK),
            Kind(INGRESS, "begin"): lambda: self.opening(NEAR, series),
            Kind(EGRESS, "not-ours"): lambda: self._frame(here, client, ACK),
            Kind(EGRESS, "request"): lambda: self._frame(*self._ends(FAR)[::2], ACK),
            Kind(EGRESS, "reply"): lambda: self._frame(self._ends(NEAR)[2], client, ACK),
            Kind(EGRESS, "begin"): lambda: self._leaving(series),
        }
        return makers[kind]()

    def opening(self, name: str, series: int) -> bytes:
        """Return what begins a connection to a service as it comes in."""
        return self._frame(self._passer_by(name, series), self._ends(name)[1], SYN)

    def _leaving(self, series: int) -> bytes:
        """Return the packet of opening(FAR), which has come in, as it leaves."""
        return self._frame(self._passer_by(FAR, series), self._ends(FAR)[2], SYN)

    def _passer_by(self, name: str, series: int) -> End:
        number = 2 * series + (name == FAR)
        return End((PASSERS_BY[self.family] + number).packed, FIRST_PORT)

    def _ends(self, name: str) -> tuple[End, End, End]:
        """Return client, frontend and backend of the connection to a service."""
        six = self.family is Family.IPV6
        client, backend = (
            ipaddress.ip_address(pair[six]).packed for pair in (CLIENT, BACKENDS[name])
        )
        return (
            End(client, CLIENT_PORTS[name]),
            End(self._node, NODE_PORTS[name]),
            End(backend, TARGET_PORT),
        )

    def _frame(self, src: End, dst: End, flags: int) -> bytes:
        kind = packets.ETH_P[self.family]
        return packets.ether(packets.tcp(src, dst, flags), kind, dst=self.uplink.mac)

    def _passes(self, side: str, sent: tuple[End, End, int], expected: tuple[End, End]) -> None:
        left = self.uplink.run(side, self._frame(*sent))
        if ends_of(left, self.family) != expected:
            raise PyproxyError(f"a packet at {side} became another one than it should")


def ends_of(frame: bytes, family: Family) -> tuple[End, End]:
    """Return source and destination of a frame."""
    length = family.address_bytes
    ip = frame[ETHERNET_BYTES:]
    at = IP_BYTES[family]
    src, dst = ip[at - 2 * length : at - length], ip[at - length : at]
    ports = [int.from_bytes(ip[at + n : at + n + 2], "big") for n in (0, 2)]
    return End(src, ports[0]), End(dst, ports[1])
