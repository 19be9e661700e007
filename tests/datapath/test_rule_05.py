# SPDX-License-Identifier: Apache-2.0
"""Rule 5: connections whose replies would look alike, and CPUs that begin one twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.children import Board, Child, Where
from tests.datapath.ends import SOURCE_PORTS, backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Key, Record, Side
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import End

TCP, UDP = Protocol.TCP, Protocol.UDP
FLOWS, TWINS = 2_000, 2


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def record_of(hooks: Hooks, client_end: End, frontend_end: End) -> Record:
    """Return the connection between a client and a frontend."""
    (found,) = [
        each
        for each in hooks.table.records()
        if (each.client, each.frontend) == (client_end, frontend_end)
    ]
    return found


@pytest.mark.kernel
def test_rule_05_two_frontends_one_backend(hooks: Hooks, protocol: Protocol) -> None:
    """One port of a client to two services with one backend: the second gets another port."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol, 1), plan(family, protocol, 2))
    c, b = client(family), backend(family)
    f, g = frontend(family, 1), frontend(family, 2)
    assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, b))
    before = hooks.node.counters(family)
    after = hooks.ingress(hooks.first(protocol, c, g))
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": 1, "packet_clash": 1}
    other = record_of(hooks, c, g).inner
    assert other.port != c.port
    assert other.port >= 1024
    assert after == passed(hooks.first(protocol, other, b))
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))
    assert hooks.egress(hooks.answer(protocol, b, other)) == passed(hooks.answer(protocol, g, c))
    assert len(hooks.table.entries()) == 4


def test_rule_05_another_backend_before_another_port(hooks: Hooks, protocol: Protocol) -> None:
    """Where another backend will do, the client keeps its port more often than not."""
    family = hooks.family
    backends = range(1, 21)
    hooks.node.apply(
        plan(family, protocol, 1, backends=backends), plan(family, protocol, 2, backends=backends)
    )
    replies, kept = set(), 0
    for number in range(1, 201):
        c = client(family, number)
        for f in (frontend(family, 1), frontend(family, 2)):
            hooks.ingress(hooks.first(protocol, c, f))
            record = record_of(hooks, c, f) if number <= 3 else None
            assert record is None or record.client == c
    for record in hooks.table.records():
        replies.add((record.backend, record.inner))
        kept += record.client_port == record.client.port
    assert len(replies) == 400
    # one in 400 needs both: the same backend, and then the same again
    assert kept >= 390


def hairpin(hooks: Hooks, protocol: Protocol, port: int) -> tuple[End, End, End]:
    """Make a backend a client of its own service, from `port`; return it as it is seen.

    The three are the client inside, the address of the node that stands for it, the backend.
    """
    family = hooks.family
    b = backend(family, port=53)
    hooks.node.apply(plan(family, protocol, backends=[b], local=1))
    hooks.write_device(node_address(family))
    c, f = End(b.address, port), frontend(family)
    before = hooks.node.counters(family)
    after = hooks.ingress(hooks.first(protocol, c, f))
    inner = hooks.table.only().inner
    assert after == passed(hooks.first(protocol, inner, b))
    left = hooks.egress(hooks.first(protocol, inner, b))
    source = hooks.table.only().source
    assert left == passed(hooks.first(protocol, source, b))
    assert hooks.grown(before)["packet_source"] == 1
    return inner, source, b


@pytest.mark.kernel
@pytest.mark.parametrize("port", [40_000, 53], ids=["other-port", "same-port"])
def test_rule_05_a_backend_that_talks_to_itself(
    hooks: Hooks, protocol: Protocol, port: int
) -> None:
    """Hairpin: the backend sees the node, and as client the frontend; four entries lead there."""
    family = hooks.family
    inner, source, b = hairpin(hooks, protocol, port)
    c, f = End(b.address, port), frontend(family)
    assert (inner.port == port) is (port != 53)
    assert source.address == node_address(family)
    assert source.port in range(SOURCE_PORTS.first, SOURCE_PORTS.first + SOURCE_PORTS.many)
    answer = hooks.ingress(hooks.answer(protocol, b, source))
    assert answer == passed(hooks.answer(protocol, b, inner))
    assert hooks.egress(answer.data) == passed(hooks.answer(protocol, f, c))
    again = hooks.ingress(hooks.first(protocol, c, f))
    assert hooks.egress(again.data) == passed(hooks.first(protocol, source, b))
    assert set(hooks.table.entries()) == {
        Key(c, f, protocol, Side.INGRESS),
        Key(inner, b, protocol, Side.EGRESS),
        Key(b, source, protocol, Side.INGRESS),
        Key(b, inner, protocol, Side.EGRESS),
    }
    record = hooks.table.only()
    assert record.flags & Life.SOURCE_WANTED
    assert record.flags & Life.SOURCE_READY
    assert hooks.table.claimed() == [record.number]


def runs_at_once(hooks: Hooks, packets: list[bytes]) -> list[list[bytes]]:
    """Let each packet come in by two processes at once; return what it became in each.

    Threads of Python's would hand each other the interpreter, and never meet in the kernel.
    """
    steps = [Board(), Board()]

    def work(own: Board, other: Board) -> list[bytes]:
        left = []
        for number, packet in enumerate(packets, start=1):
            own.progress = number
            deadline = time.monotonic() + 10
            while other.progress < number:
                assert time.monotonic() < deadline, "the other process stands still"
            left.append(hooks.ingress(packet).data)
        return left

    pairs = (steps, steps[::-1])
    twins = [Child(Where(), partial(work, *pair)) for pair in pairs]
    try:
        results = [child.result() for child in twins]
    finally:
        for child in twins:
            child.end()
    return [list(left) for left in zip(*results, strict=True)]


@pytest.mark.parametrize("backends", [[1], range(1, 9)], ids=["one-backend", "many"])
def test_rule_05_twins(hooks: Hooks, protocol: Protocol, backends: Sequence[int]) -> None:
    """CPUs that begin one connection at once agree: one record, one backend, one port.

    That port is the client's own: a twin is no other connection to make way for.
    """
    family = hooks.family
    hooks.node.apply(plan(family, protocol, backends=backends))
    before = hooks.node.counters(family)
    f = frontend(family)
    firsts = [hooks.first(protocol, client(family, port=2_000 + n), f) for n in range(FLOWS)]
    for packet, left in zip(firsts, runs_at_once(hooks, firsts), strict=True):
        assert len(set(left)) == 1
        assert left[0] != packet
    assert hooks.grown(before) == {"packet_open": FLOWS, "packet_in": FLOWS * TWINS}
    assert len(hooks.table.claimed()) == FLOWS
    entries = hooks.table.entries()
    assert len(entries) == 2 * FLOWS
    numbers = sorted({to.number for to in entries.values()})
    assert numbers == hooks.table.claimed()
    at = p.IP_BYTES[family]
    ports = {left[0][at : at + 2] for left in runs_at_once(hooks, firsts[:50])}
    assert len(ports) == 50
