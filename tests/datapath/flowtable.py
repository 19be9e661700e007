# SPDX-License-Identifier: Apache-2.0
"""The connection table of one family as the tests see it: read, aged, filled and emptied."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.kernel.connections import Life
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.model import Family
from tests.datapath.node import Loaded
from tests.datapath.packets import End

OPENING_TICKS = 180  # bpf/table.h
PART = 64  # so many records are looked at together

_KEY = ("src", "dst", "src_port", "dst_port", "proto", "side")
_RECORD = (
    "life", "client.addr", "client.port", "frontend.addr", "frontend.port", "backend.addr",
    "backend.port", "client_port", "proto", "check", "service", "generation", "source.addr",
    "source.port", "source_check",
)  # fmt: skip

OPENED = Life.CLAIMED | Life.READY
ANSWERED = OPENED | Life.REPLIED
ESTABLISHED = ANSWERED | Life.ESTABLISHED


class Side(enum.IntEnum):
    """`enum side` of bpf/types.h."""

    INGRESS = 0
    EGRESS = 1


class Role(enum.IntEnum):
    """`enum role` of bpf/types.h."""

    REQUEST = 1
    REPLY = 2
    PASS = 3


class Key(NamedTuple):
    """A packet as a hook sees it, before translation."""

    src: End
    dst: End
    proto: int
    side: Side


class Lead(NamedTuple):
    """What a key leads to: a record's number, and what the packet is to it."""

    number: int
    role: Role


class Record(NamedTuple):
    """A connection; `seen` is when its last packet was noted, in ticks."""

    number: int
    flags: Life
    seen: int
    client: End
    frontend: End
    backend: End
    client_port: int
    proto: int
    check: int
    service: int
    generation: int
    source: End
    source_check: int

    @property
    def inner(self) -> End:
        """The client as its backend sees it, where its address is kept."""
        return End(self.client.address, self.client_port)

    def leads(self) -> dict[Key, Role]:
        """What may lead here, and as what."""
        if not self.flags & Life.READY:
            return {}
        request = Key(self.client, self.frontend, self.proto, Side.INGRESS)
        if self.flags & Life.PASS:
            return {request: Role.PASS}
        found = {request: Role.REQUEST}
        found[Key(self.backend, self.inner, self.proto, Side.EGRESS)] = Role.REPLY
        if self.flags & Life.SOURCE_WANTED:
            found[Key(self.inner, self.backend, self.proto, Side.EGRESS)] = Role.REQUEST
        if self.flags & Life.SOURCE_READY:
            found[Key(self.backend, self.source, self.proto, Side.INGRESS)] = Role.REPLY
        return found


def begin_tick() -> int:
    """Wait for a new tick to begin, 17 ms at most, and return it.

    What follows has nearly a whole tick to finish in: ages are exact then.
    """
    old = now_ticks()
    deadline = time.monotonic() + 5
    while (new := now_ticks()) == old:
        assert time.monotonic() < deadline, "the clock stands still"
    return new


class Flows:
    """`nat` and `connections`, pinned in a directory."""

    def __init__(self, directory: Path) -> None:
        self.nat = HashMap(str(directory / "nat"), _KEY, ("connection", "role"))
        self.connections = ArrayMap(str(directory / "connections"), write=True)
        self._codec = self.connections.codec(_RECORD)

    def close(self) -> None:
        """Close the maps."""
        self.nat.close()
        self.connections.close()

    def entries(self) -> dict[Key, Lead]:
        """Return everything in `nat`."""
        return {
            Key(End(src, sport), End(dst, dport), proto, Side(side)): Lead(number, Role(role))
            for (src, dst, sport, dport, proto, side), (number, role) in self.nat.items()
        }

    def put(self, entries: dict[Key, Lead]) -> None:
        """Write entries."""
        self.nat.update([(_raw(key), tuple(to)) for key, to in entries.items()])

    def delete(self, keys: Iterable[Key]) -> None:
        """Delete entries."""
        self.nat.delete(_raw(key) for key in keys)

    def record(self, number: int) -> Record:
        """Return one record."""
        values = self._codec.unpack(self.connections.read(number))
        life, client, cport, frontend, fport, backend, bport, *rest = values
        port, proto, check, service, generation, source, sport, source_check = rest
        return Record(
            number, Life(life & 0xFFFFFFFF), life >> 32, End(client, cport), End(frontend, fport),
            End(backend, bport), port, proto, check, service, generation, End(source, sport),
            source_check,
        )  # fmt: skip

    def write(self, number: int, record: Record) -> None:
        """Write a record, its number apart: it may be another one's place."""
        life = record.seen << 32 | record.flags
        raw = self._codec.pack(
            life, *record.client, *record.frontend, *record.backend, record.client_port,
            record.proto, record.check, record.service, record.generation, *record.source,
            record.source_check,
        )  # fmt: skip
        self.connections.write(number, raw)

    def records(self) -> list[Record]:
        """Return the records that entries lead to, by number."""
        return [self.record(n) for n in sorted({to.number for to in self.entries().values()})]

    def dangling(self) -> dict[Key, Lead]:
        """Return the entries that the records that they lead to know nothing of."""
        return {
            key: lead
            for key, lead in self.entries().items()
            if self.record(lead.number).leads().get(key) != lead.role
        }

    def only(self) -> Record:
        """Return the one record there is."""
        (found,) = self.records()
        return found

    def set_life(self, number: int, flags: Life, age: int) -> None:
        """Give a record flags, and an age in ticks; without flags it is free."""
        self.set_lives([(number, flags, age)])

    def set_lives(self, lives: Sequence[tuple[int, Life, int]]) -> None:
        """Give records flags and ages; the rest of them stays."""
        now = now_ticks()
        for number, flags, age in lives:
            raw = bytearray(self.connections.read(number))
            life = (((now - age) & 0xFFFFFFFF) << 32 | flags) if flags else 0
            raw[:8] = life.to_bytes(8, sys.byteorder)
            self.connections.write(number, bytes(raw))

    def age(self, number: int, ticks: int) -> None:
        """Make a record's last packet this old."""
        self.set_life(number, self.record(number).flags, ticks)

    def claimed(self) -> list[int]:
        """Return the numbers of all records that are not free, whether anything leads there."""
        stride = self.connections.stride
        return [
            first + at // stride
            for first, raw in self._used()
            for at in range(0, len(raw), stride)
            if any(raw[at : at + 8])
        ]

    def _used(self) -> Iterator[tuple[int, bytes]]:
        """Give the parts of `connections` that are not all zeros, by their first number."""
        many = min(PART, self.connections.max)
        zeros = bytes(many * self.connections.stride)
        for first in range(0, self.connections.max, many):
            raw = self.connections.read(first, many)
            if raw != zeros:
                yield first, raw


class FlowTable(Flows):
    """The connections of one family of a node, and the marks of their ends."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded.connections)
        self.family: Family = loaded.request.family
        self._marks = loaded.datapath.marks

    def clear(self) -> None:
        """Forget all connections and the marks of their ends."""
        self.nat.delete([key for key, _ in self.nat.items()])
        for first, raw in self._used():
            self.connections.write(first, bytes(len(raw)))
        marks = bytearray(self._marks.read(0, self._marks.max))
        busy, stride = self._marks.layout["busy"], self._marks.stride
        for offset in range(busy.offset, busy.offset + busy.size):
            marks[offset::stride] = bytes(self._marks.max)
        self._marks.write(0, bytes(marks))


def _raw(key: Key) -> tuple[Any, ...]:
    return (
        key.src.address, key.dst.address, key.src.port, key.dst.port, key.proto, int(key.side)
    )  # fmt: skip
