# SPDX-License-Identifier: Apache-2.0
"""Sweeping marks: at no moment is one missing that a living connection or socket needs."""

from __future__ import annotations

import itertools
import operator
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.kernel import connections as table
from pyproxy.kernel.connections import Connections, Life
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.kernel.sweep import of_connections, of_sockets, sweep
from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flavours import Flavour
from tests.datapath.flowtable import ESTABLISHED, OPENED, Record
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End
from tests.datapath.services import service
from tests.datapath.test_packetpath import prefix

TCP, UDP = Protocol.TCP, Protocol.UDP
FROM_NODE = ESTABLISHED | Life.SOURCE_WANTED | Life.SOURCE_READY
LONG_AGO = 1 << 30  # ticks: beyond every timeout
FULL_MS = 20_000  # a full table takes 2 s here; a sweep begins every 60 s


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


@pytest.fixture
def living(hooks: Hooks) -> Iterator[Connections]:
    """The hooks' connection table as a sweep reads it."""
    loaded = hooks.node.loaded[hooks.family]
    found = Connections(loaded.connections, loaded.pins.maps)
    yield found
    found.close()


@pytest.fixture
def socket_marks(node: Node) -> Iterator[ArrayMap]:
    """The marks of connected sockets' backends, swept clean of earlier tests' ones."""
    marks = ArrayMap(str(node.loaded[Family.IPV4].pins.shared / "socket_marks"), write=True)
    sweep(of_sockets(node.loaded[Family.IPV4].pins.shared), marks, go_on)
    assert marked(marks) == set()
    yield marks
    marks.close()


def go_on() -> bool:
    """Pause nowhere."""
    return False


@pytest.mark.parametrize("byte", [0, 1])
def test_a_connection_that_begins_during_a_sweep_sets_both_bytes(hooks: Hooks, byte: int) -> None:
    """One of them stands for the other one, which the sweep has just cleared."""
    family, marks = hooks.family, marks_of(hooks)
    hooks.node.apply(plan(family, TCP))
    f, b = frontend(family), backend(family)
    places = [endpoint_hash(end.address, end.port) for end in (f, b)]
    for index in places:
        marks.write_byte(index, marks.layout["busy"].offset + byte, 1)
    hooks.ingress(hooks.tcp(client(family), f, SYN))
    for index in places:
        assert (plane(marks, 0)[index], plane(marks, 1)[index]) == (1, 1)


def marks_of(hooks: Hooks) -> ArrayMap:
    """Return the marks of the hooks' family."""
    return hooks.node.loaded[hooks.family].datapath.marks


def plane(marks: ArrayMap, byte: int) -> bytes:
    """Return one of the busy bytes of all marks."""
    return marks.read(0, marks.max)[marks.layout["busy"].offset + byte :: marks.stride]


def marked(marks: ArrayMap) -> set[int]:
    """Return which marks a program would see: those with either byte."""
    both = (int.from_bytes(plane(marks, byte), "big") for byte in (0, 1))
    either = operator.or_(*both).to_bytes(marks.max, "big")
    return {index for index, byte in enumerate(either) if byte}


def stand(marks: ArrayMap, needed: set[int]) -> bool:
    """Return whether a program would see all of these marks."""
    one, other = plane(marks, 0), plane(marks, 1)
    return all(one[index] | other[index] for index in needed)


def wholly(marks: ArrayMap) -> set[int]:
    """Return which marks have both bytes, after asserting that none has only one."""
    assert plane(marks, 0) == plane(marks, 1)
    return marked(marks)


def mark_all(marks: ArrayMap) -> None:
    """Mark everything, as if there had been connections of all kinds."""
    raw = bytearray(marks.read(0, marks.max))
    for byte in (0, 1):
        raw[marks.layout["busy"].offset + byte :: marks.stride] = b"\x01" * marks.max
    marks.write(0, bytes(raw))


def needs(record: Record) -> set[int]:
    """Return the marks that a connection's packets need: where they are translated they differ."""
    ends = [record.frontend, record.backend]
    if record.flags & Life.SOURCE_WANTED:
        ends += [record.inner, record.source]
    return {endpoint_hash(*end) for end in ends}


class Watched:
    """A map of marks that calls `look` before and after every clearing of a byte."""

    def __init__(self, marks: ArrayMap, look: Callable[[], None]) -> None:
        self._marks = marks
        self._look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._marks, name)

    def clear_bytes(self, offset: int) -> None:
        """Clear a byte of all marks."""
        self._look()
        self._marks.clear_bytes(offset)
        self._look()


def watched_sweep(
    living: Connections, marks: ArrayMap, look: Callable[[], None], last: int | None = None
) -> None:
    """Sweep, and call `look` at every step; end after the slice of that number, from 0 on."""
    slices = itertools.count()

    def pause() -> bool:
        look()
        return next(slices) == last

    watched: Any = Watched(marks, look)
    sweep(of_connections(living), watched, pause)
    assert last is None or next(slices) == last + 1


def write_records(hooks: Hooks, states: dict[int, tuple[Life, int]]) -> list[Record]:
    """Write a connection of its own at each number, with flags and an age."""
    family, now = hooks.family, now_ticks()
    made = []
    for n, (number, (flags, age)) in enumerate(states.items(), start=1):
        c, b = client(family, n, 10_000 + n), backend(family, n)
        source = End(node_address(family), 3_000 + n)
        seen = (now - age) & 0xFFFFFFFF
        values = (flags, seen, c, frontend(family, n), b, 20_000 + n, int(TCP), 0, 1, 1, source, 0)
        made.append(Record(number, *values))
        hooks.table.write(number, made[-1])
    return made


def test_marks_of_connections_stand_at_every_moment(hooks: Hooks, living: Connections) -> None:
    """One in each slice, of every kind, beside some that are gone: the latter's marks go."""
    marks = marks_of(hooks)
    kinds = itertools.cycle([ESTABLISHED, OPENED, OPENED | Life.UDP, FROM_NODE])
    spread = {start + 7: (next(kinds), 0) for start in living.slices}
    alive = write_records(hooks, spread | {living.max: (FROM_NODE, 0)})
    needed = set().union(*map(needs, alive))
    gone = {n + 1: (flags, LONG_AGO) for n, (flags, _) in spread.items()}
    gone |= {n + 2: (Life.CLAIMED, 0) for n in spread}
    write_records(hooks, gone)
    write_records(hooks, dict.fromkeys(spread, (ESTABLISHED, 0)))
    for record in alive:
        hooks.table.write(record.number, record)
    mark_all(marks)
    looks: list[bool] = []
    watched_sweep(living, marks, lambda: looks.append(stand(marks, needed)))
    assert len(looks) == 3 * len(living.slices) + 4
    assert all(looks)
    assert wholly(marks) == needed


@pytest.mark.parametrize("family", [Family.IPV4], ids=["IPv4"], indirect=True)
def test_a_sweep_that_is_killed_anywhere_loses_nothing(
    hooks: Hooks, living: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sweeps that end wherever they can, one after the other, and then a whole one."""
    monkeypatch.setattr(table, "SLICE", 32_768)
    marks = marks_of(hooks)
    alive = write_records(hooks, {5: (FROM_NODE, 0), 40_000: (OPENED, 0)})
    needed = set().union(*map(needs, alive))
    steps = 3 * len(living.slices)

    def look() -> None:
        assert stand(marks, needed)

    for first, second in itertools.product(range(steps), (0, steps // 2, steps - 1)):
        mark_all(marks)
        for last in (first, second):
            watched_sweep(living, marks, look, last)
        watched_sweep(living, marks, look)
        assert wholly(marks) == needed


def test_connections_that_begin_meanwhile_keep_their_marks(
    hooks: Hooks, living: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs open one to another service at each step: all go on, at each step and after."""
    monkeypatch.setattr(table, "SLICE", 16_384)
    family, marks = hooks.family, marks_of(hooks)
    numbers = range(1, 3 * len(living.slices) + 5)
    hooks.node.apply(*(plan(family, TCP, n, [n]) for n in numbers))
    mark_all(marks)
    waiting = iter(numbers)
    opened: list[int] = []

    def step() -> None:
        number = next(waiting)
        c, f, b = client(family, number), frontend(family, number), backend(family, number)
        assert hooks.ingress(hooks.tcp(c, f, SYN)) == passed(hooks.tcp(c, b, SYN))
        opened.append(number)
        for each in opened:
            c, f, b = client(family, each), frontend(family, each), backend(family, each)
            packet = hooks.tcp(b, c, SYN | ACK)
            assert hooks.egress(packet) == passed(hooks.tcp(f, c, SYN | ACK))

    watched_sweep(living, marks, step)
    assert opened == list(numbers)
    records = hooks.table.records()
    assert len(records) == len(opened)
    assert wholly(marks) == set().union(*map(needs, records))


def test_marks_survive_sweeps_under_a_flood(hooks: Hooks, living: Connections) -> None:
    """A thread opens connections, each with a mark of its own, as fast as it can."""
    family, marks = hooks.family, marks_of(hooks)
    # clients that are not the cluster's are marked, every one
    other = "192.0.2.0/24" if family is Family.IPV4 else "2001:db8::/32"
    hooks.configure(cidrs=(prefix(other),))
    hooks.node.apply(plan(family, TCP))
    flooding = threading.Thread(target=_flood, args=(hooks, done := threading.Event()))
    flooding.start()
    try:
        for _ in range(3):
            sweep(of_connections(living), marks, lambda: done.wait(0.001) and False)
    finally:
        done.set()
        flooding.join()
    # the last of them began when a sweep was over
    records = hooks.table.records()
    assert len(records) > 100
    # nothing has left, so that none has a source yet
    needed = set().union(*(needs(each._replace(source=each.frontend)) for each in records))
    assert stand(marks, needed)


def _flood(hooks: Hooks, done: threading.Event) -> None:
    family = hooks.family
    runs = hooks.tuples("ingress", hooks.tcp(client(family, 2), frontend(family), SYN))
    port = p.ETHERNET_BYTES + p.IP_BYTES[family]
    for number in range(1_024, 13_024):
        if done.is_set():
            return
        runs.run(((port, struct.pack("!H", number)),))


def test_a_full_table_is_swept_in_time(
    hooks: Hooks, living: Connections, record_property: Callable[[str, object], None]
) -> None:
    """All 65,535 connections in use, every one with four ends."""
    (record,) = write_records(hooks, {1: (FROM_NODE, 0)})
    raw = hooks.table.connections.read(1)
    hooks.table.connections.write(1, raw * living.max)
    assert living.used(now_ticks()) == living.max == 65_535
    begun = time.perf_counter()
    sweep(of_connections(living), marks_of(hooks), go_on)
    milliseconds = (time.perf_counter() - begun) * 1000
    record_property("sweep_ms", round(milliseconds))
    assert milliseconds < FULL_MS
    assert wholly(marks_of(hooks)) == needs(record)


def test_marks_of_sockets_stand_at_every_moment(node: Node, socket_marks: ArrayMap) -> None:
    """One more socket connects at each step; every one is forgotten when it is closed, whenever."""
    shared = node.loaded[Family.IPV4].pins.shared
    flavours = itertools.cycle(itertools.product(Flavour, (TCP, UDP)))
    for number, family, protocol in itertools.product(range(1, 8), Family, (TCP, UDP)):
        node.apply(service(family, number, [number], protocol=protocol))
    mark_all(socket_marks)
    numbers, socks, needed = itertools.cycle(range(1, 8)), [], set[int]()
    before = node.remembered()

    def step() -> None:
        number, (flavour, protocol) = next(numbers), next(flavours)
        socks.append(sock := node.socket(flavour, protocol))
        sock.connect(flavour.service(number))
        needed.add(endpoint_hash(*backend_end(flavour, number)))
        assert stand(socket_marks, needed)

    def pause() -> bool:
        step()
        return False

    watched: Any = Watched(socket_marks, step)
    sweep(of_sockets(shared), watched, pause)
    assert len(socks) == 10
    assert wholly(socket_marks) == needed
    assert node.remembered() == before + len(socks)
    for sock in socks:
        sock.close()
    assert node.remembered() == before
    sweep(of_sockets(shared), socket_marks, go_on)
    assert marked(socket_marks) == set()


def backend_end(flavour: Flavour, number: int) -> End:
    """Return a backend's end as the maps have it."""
    (found,) = service(flavour.family, number, [number]).backends
    return End(found.address, found.port)
