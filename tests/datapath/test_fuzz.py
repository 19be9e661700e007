# SPDX-License-Identifier: Apache-2.0
"""Packets of which a few bytes are anything: nothing goes elsewhere, nothing is half translated.

What the program makes of each is compared with a second reading of the same bytes (reading.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.kernel.maps import HashMap
from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.pieces import DESTINATION, ROUTING, cut, extended, fragment, options, routing
from tests.datapath.prog_run import Ran
from tests.datapath.reading import read, translated
from tests.datapath.test_fragments import KEY, VALUE

UDP = Protocol.UDP
HEADERS = 96  # how far into a packet bytes change
EXAMPLES = 400


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service with one backend here."""
    node.apply(plan(family, UDP, 1, [1], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def bases(family: Family) -> list[bytes]:
    """Return packets of each kind to the service, and one to somebody else."""
    c, f = client(family), frontend(family)
    plain = p.udp(c, f)
    found = [plain, p.udp(c, f, checksum=False), p.udp(c, backend(family, 9)), *cut(plain, 16)[:2]]
    if family is Family.IPV4:
        return [*found, p.udp(c, f, head=p.PLAIN._replace(options=b"\x01" * 8))]
    chain = (
        (p.HOP_BY_HOP, options()),
        (ROUTING, routing(0)),
        (p.FRAGMENT, fragment(0, more=False)),
    )
    return [*found, extended(plain, *chain), extended(plain, (DESTINATION, options(2)))]


def expected(hooks: Hooks, packet: bytes) -> Ran:
    """Return what the second reading makes of a packet that comes in."""
    family = hooks.family
    f, b = frontend(family), backend(family)
    found = read(family, packet)
    at = 16 if family is Family.IPV4 else 24
    is_service = packet[at : at + len(f.address)] == f.address
    if found.has_no_ports and is_service:
        return dropped(packet)
    if found.datagram is None or found.datagram.dst != f:
        return passed(packet)
    return passed(translated(family, packet, found.datagram, b))


def forget(hooks: Hooks) -> None:
    """Begin again: no connections, no fragments."""
    hooks.table.clear()
    path = hooks.node.loaded[hooks.family].pins.maps / "fragments"
    with closing(HashMap(str(path), KEY, VALUE)) as fragments:
        fragments.delete([key for key, _ in fragments.items()])


CHANGES = st.lists(st.tuples(st.integers(0, HEADERS - 1), st.integers(0, 255)), max_size=4)


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_comes_in(hooks: Hooks, data: st.DataObject) -> None:
    """Changed, and cut off anywhere behind what the kernel wants to see of a frame."""
    packet = bytearray(data.draw(st.sampled_from(bases(hooks.family))))
    for at, value in data.draw(CHANGES):
        packet[at % len(packet)] = value
    least = p.IP_BYTES[hooks.family]
    length = data.draw(st.one_of(st.just(len(packet)), st.integers(least, len(packet))))
    packet = packet[:length]
    forget(hooks)
    assert hooks.ingress(bytes(packet)) == expected(hooks, bytes(packet))
