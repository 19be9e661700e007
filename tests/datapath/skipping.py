# SPDX-License-Identifier: Apache-2.0
"""Connections whose way is known: what the stack and bpf/way.c would have written, by hand."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyproxy.kernel.addresses import FAST, UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import WAY_EPOCH, advance
from pyproxy.model import Protocol
from tests.datapath.ends import backend, client, frontend, node_address
from tests.datapath.flowtable import ESTABLISHED, Record
from tests.datapath.hooks import Hooks
from tests.datapath.packets import ACK, ETH_P, PLAIN, End, Head, ether
from tests.datapath.prog_run import Ran

BOTH = FastPath.UDP | FastPath.TCP
PLACES = {"request": 3, "reply": 4}  # in `ways`, away from each other
WAYS = Life.WAY_REQUEST | Life.WAY_REPLY
_WAY = struct.Struct("=IH6s6sH")


class Way(NamedTuple):
    """Where packets go (struct way)."""

    ifindex: int = 7
    mtu: int = 1500
    dst: bytes = b"\x02\x00\x00\x00\x00\x0a"
    src: bytes = b"\x02\x00\x00\x00\x00\x0b"
    flags: int = 0

    def raw(self) -> bytes:
        """Return the way as it lies in the map, with its check."""
        words = _WAY.pack(*self)
        check = 0xFA57FA57
        for word in struct.unpack("=5I", words):
            check ^= word
        return words + struct.pack("=IQ", check, 0)


REQUESTS, REPLIES = Way(), Way(8, 1400, b"\x02\x00\x00\x00\x00\x0c", b"\x02\x00\x00\x00\x00\x0d")


class Skipping:
    """A connection that goes on, with both ways known; `number` is that of its service.

    Service 1 has a backend elsewhere, service 2 one on this node: there the client is seen.
    """

    def __init__(self, hooks: Hooks, protocol: Protocol, number: int) -> None:
        self.hooks, self.protocol = hooks, protocol
        family = hooks.family
        self.client = client(family)
        self.frontend, self.backend = frontend(family, number), backend(family, number)
        hooks.write_device(node_address(family), UPLINK | FAST)
        hooks.path.write_fast_path(BOTH)
        hooks.egress(hooks.ingress(hooks.first(protocol, self.client, self.frontend)).data)
        self.source = self.record.source if number == 1 else self.client
        self.write_way("request", REQUESTS)
        self.write_way("reply", REPLIES)
        self.know()

    @property
    def record(self) -> Record:
        """The connection."""
        return self.hooks.table.only()

    def write_way(self, whose: str, way: Way, raw: bytes = b"") -> None:
        """Write where such packets go."""
        with self._opened("ways") as ways:
            ways.write(PLACES[whose], raw or way.raw())

    @contextmanager
    def _opened(self, name: str) -> Iterator[ArrayMap]:
        pins = self.hooks.node.loaded[self.hooks.family].pins
        found = ArrayMap(str(pins.maps / name), write=True)
        try:
            yield found
        finally:
            found.close()

    def advance(self, epoch: str) -> None:
        """Make an epoch, by its setting's name, another one."""
        with self._opened("settings") as settings:
            advance(settings, epoch)

    def know(self, flags: Life = ESTABLISHED | WAYS) -> None:
        """Write that the ways are known, and what state the connection is in besides."""
        table, number = self.hooks.table, self.record.number
        kept = self.record.flags & (Life.SOURCE_WANTED | Life.SOURCE_READY | Life.UDP)
        raw = bytearray(table.connections.read(number))
        since = self.hooks.timeout(WAY_EPOCH) & 0xFFFF
        for name, value in (
            ("request_way", PLACES["request"]),
            ("reply_way", PLACES["reply"]),
            ("way_epoch", since),
        ):
            at = table.connections.layout[name].offset
            raw[at : at + 2] = value.to_bytes(2, sys.byteorder)
        table.connections.write(number, bytes(raw))
        table.set_life(number, flags | kept, 0)

    def packet(self, src: End, dst: End, head: Head = PLAIN, flags: int = ACK) -> bytes:
        """Return a packet of the connection's between two ends."""
        with self.hooks.heads(head):
            if self.protocol is Protocol.TCP:
                return self.hooks.tcp(src, dst, flags)
            return self.hooks.udp(src, dst)

    def ends(self, whose: str) -> tuple[tuple[End, End], tuple[End, End]]:
        """Return the ends of a packet as it comes in, and as it leaves."""
        request = (self.client, self.frontend), (self.source, self.backend)
        reply = (self.backend, self.source), (self.frontend, self.client)
        return request if whose == "request" else reply

    def come(self, whose: str, head: Head = PLAIN, flags: int = ACK) -> bytes:
        """Return a frame as it comes in."""
        packet = self.packet(*self.ends(whose)[0], head, flags)
        return ether(packet, ETH_P[self.hooks.family])

    def run(self, whose: str, head: Head = PLAIN, flags: int = ACK) -> Ran:
        """Let a packet come in; return the verdict and the frame."""
        return self.hooks.frame("ingress", self.come(whose, head, flags))

    def sent(self, whose: str, way: Way, head: Head = PLAIN) -> bytes:
        """Return the frame that such a packet is to leave as."""
        packet = self.packet(*self.ends(whose)[1], head._replace(ttl=head.ttl - 1))
        return way.dst + way.src + ether(packet, ETH_P[self.hooks.family])[12:]
