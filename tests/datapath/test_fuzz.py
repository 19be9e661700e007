# SPDX-License-Identifier: Apache-2.0
"""Packets of which a few bytes are anything: nothing goes elsewhere, nothing is half translated.

What the program makes of each is compared with a second reading of the same bytes (reading.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.kernel.maps import HashMap
from pyproxy.model import Family, Protocol, family_of
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, CWR, ECE, FIN, SYN, TEXT, End
from tests.datapath.pieces import (
    DESTINATION,
    ROUTING,
    cut,
    ends_of,
    extended,
    fragment,
    options,
    routing,
)
from tests.datapath.prog_run import Ran
from tests.datapath.reading import read, translated
from tests.datapath.test_fragments import KEY, VALUE

TCP, UDP = Protocol.TCP, Protocol.UDP
HEADERS = 96  # how far into a packet bytes change
EXAMPLES = 400
Changes: TypeAlias = st.SearchStrategy[list[tuple[int, int]]]


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service for each protocol with one backend here."""
    node.apply(*(plan(family, each, 1, [1], local=1) for each in (TCP, UDP)))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def bases(family: Family, src: End, dst: End) -> list[bytes]:
    """Return packets of each kind from one end to another, and one to somebody else."""
    plain = p.udp(src, dst)
    segments = [p.tcp(src, dst, flags, TEXT) for flags in (SYN, SYN | ECE | CWR, ACK, FIN | ACK)]
    others = p.udp(src, backend(family, 9)), *cut(plain, 16)[:2]
    found = [plain, p.udp(src, dst, checksum=False), *segments, *others]
    if family is Family.IPV4:
        return [*found, p.udp(src, dst, head=p.PLAIN._replace(options=b"\x01" * 8))]
    chain = (
        (p.HOP_BY_HOP, options()),
        (ROUTING, routing(0)),
        (p.FRAGMENT, fragment(0, more=False)),
    )
    return [*found, extended(plain, *chain), extended(segments[0], (DESTINATION, options(2)))]


def changes(beyond: int, most: int) -> Changes:
    """Return so many changes of bytes at most, none so far into a packet or farther."""
    return st.lists(st.tuples(st.integers(0, beyond - 1), st.integers(0, 255)), max_size=most)


CHANGES = changes(HEADERS, 4)


def changed(data: st.DataObject, found: list[bytes], wanted: Changes = CHANGES) -> bytes:
    """Draw a packet, changed and cut off anywhere behind what the kernel wants of a frame."""
    packet = bytearray(data.draw(st.sampled_from(found)))
    for at, value in data.draw(wanted):
        packet[at % len(packet)] = value
    least = p.IP_BYTES[family_of(ends_of(bytes(found[0]))[0])]
    length = data.draw(st.one_of(st.just(len(packet)), st.integers(least, len(packet))))
    return bytes(packet[:length])


def expected_in(hooks: Hooks, packet: bytes) -> Ran:
    """Return what the second reading makes of a packet that comes in."""
    family = hooks.family
    f, b = frontend(family), backend(family)
    found = read(family, packet)
    at = 16 if family is Family.IPV4 else 24
    if found.has_no_ports and packet[at : at + len(f.address)] == f.address:
        return dropped(packet)
    if found.segment is None or found.segment.dst != f or not found.segment.begins:
        return passed(packet)
    return passed(translated(family, packet, found.segment, found.segment.src, b))


def expected_out(hooks: Hooks, packet: bytes) -> Ran:
    """Return what it makes of a packet that leaves, where a client has asked by UDP and TCP."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    segment = read(family, packet).segment
    if segment is None or (segment.src, segment.dst) != (b, c):
        return passed(packet)
    return passed(translated(family, packet, segment, f, c))


def forget(hooks: Hooks) -> None:
    """Begin again: no connections, no fragments."""
    hooks.table.clear()
    path = hooks.node.loaded[hooks.family].pins.maps / "fragments"
    with closing(HashMap(str(path), KEY, VALUE)) as fragments:
        fragments.delete([key for key, _ in fragments.items()])


FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(data=st.data())
@FUZZ
def test_what_comes_in(hooks: Hooks, data: st.DataObject) -> None:
    """From a client that nothing is known of."""
    packet = changed(data, bases(hooks.family, client(hooks.family), frontend(hooks.family)))
    forget(hooks)
    assert hooks.ingress(packet) == expected_in(hooks, packet)


@given(data=st.data())
@FUZZ
def test_what_leaves(hooks: Hooks, data: st.DataObject) -> None:
    """From the backend of a client that has asked, and whom it has answered."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    packet = changed(data, bases(family, b, c))
    forget(hooks)
    for protocol in (TCP, UDP):
        hooks.ingress(hooks.first(protocol, c, f))
        hooks.egress(hooks.answer(protocol, b, c))
    assert hooks.egress(packet) == expected_out(hooks, packet)
