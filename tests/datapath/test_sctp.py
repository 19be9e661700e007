# SPDX-License-Identifier: Apache-2.0
"""SCTP: translated where no port changes, so that its checksum stays right (RFC 9260 6.8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, node_address, plan, refusing
from tests.datapath.flavours import PORT
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import Chunk, End
from tests.datapath.prog_run import TC_REDIRECT

SCTP = Protocol.SCTP
NEARLY_ANY = [Chunk.DATA, Chunk.INIT_ACK, Chunk.ABORT, Chunk.SHUTDOWN, Chunk.COOKIE_ECHO]


@pytest.fixture(params=Wire, ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of a device; services 1 (a backend here) and 2 (elsewhere), one for both."""
    for number, local in ((1, 1), (2, 0)):
        ends = [served(family, number)]
        node.apply(plan(family, SCTP, number, [number], frontends=ends, local=local))
    with Hooks(node, family, request.param, tmp_path) as found:
        yield found


def served(family: Family, number: int = 1) -> End:
    """Return where a service is asked for: by its backend's port."""
    return frontend(family, number, PORT)


def begin(hooks: Hooks, number: int = 1) -> None:
    """Let a client begin an association, up to the backend's last word of the handshake."""
    family = hooks.family
    c, f, b = client(family), served(family, number), backend(family, number)
    hooks.ingress(hooks.sctp(c, f, Chunk.INIT))
    hooks.egress(hooks.sctp(b, c, Chunk.INIT_ACK))
    hooks.ingress(hooks.sctp(c, f, Chunk.COOKIE_ECHO))
    hooks.egress(hooks.sctp(b, c, Chunk.COOKIE_ACK))


@pytest.mark.kernel
def test_both_ways_are_translated(hooks: Hooks) -> None:
    """Addresses alone change; ports and the checksum stay as they are."""
    family = hooks.family
    c, f, b = client(family), served(family), backend(family)
    with hooks.node.counting(family, packet_open=1, packet_in=2, packet_out=1):
        assert hooks.ingress(hooks.sctp(c, f, Chunk.INIT)) == passed(hooks.sctp(c, b, Chunk.INIT))
        answer = hooks.sctp(b, c, Chunk.INIT_ACK)
        assert hooks.egress(answer) == passed(hooks.sctp(f, c, Chunk.INIT_ACK))
        data = hooks.sctp(c, f, Chunk.DATA, b"odd")
        assert hooks.ingress(data) == passed(hooks.sctp(c, b, Chunk.DATA, b"odd"))


def test_a_chunk_that_ends_the_packet(hooks: Hooks) -> None:
    """It is nothing but its header, as COOKIE ACK is."""
    c, f, b = client(hooks.family), served(hooks.family), backend(hooks.family)
    sent, arrives = (hooks.sctp(c, to, Chunk.INIT, b"") for to in (f, b))
    assert hooks.ingress(sent) == passed(arrives)


def test_an_association_is_established(hooks: Hooks) -> None:
    """By its handshake, as TCP's by its own: the same timeouts count."""
    begin(hooks)
    flags = hooks.table.only().flags
    assert flags & Life.REPLIED
    assert flags & Life.ESTABLISHED
    assert not flags & Life.UDP


@pytest.mark.parametrize("by_client", [True, False])
def test_an_association_ends(hooks: Hooks, *, by_client: bool) -> None:
    """SHUTDOWN and what acknowledges it, from either side; a new one begins then."""
    family = hooks.family
    begin(hooks)
    c, f, b = client(family), served(family), backend(family)
    chunks = (Chunk.SHUTDOWN, Chunk.SHUTDOWN_ACK)
    asked, told = chunks if by_client else chunks[::-1]
    hooks.ingress(hooks.sctp(c, f, asked))
    assert hooks.table.only().flags & Life.FIN_CLIENT
    hooks.egress(hooks.sctp(b, c, told))
    assert hooks.table.only().flags & Life.FIN_BACKEND
    with hooks.node.counting(family, packet_in=1):
        hooks.ingress(hooks.sctp(c, f, Chunk.SHUTDOWN_COMPLETE))
    with hooks.node.counting(family, packet_in=1, packet_open=1):
        hooks.ingress(hooks.sctp(c, f, Chunk.INIT))


def test_an_association_is_aborted(hooks: Hooks) -> None:
    """It lives no longer than a connection that was reset; later data takes that back."""
    begin(hooks)
    c, f = client(hooks.family), served(hooks.family)
    hooks.ingress(hooks.sctp(c, f, Chunk.ABORT))
    assert hooks.table.only().flags & Life.RESET
    hooks.ingress(hooks.sctp(c, f, Chunk.DATA))
    assert not hooks.table.only().flags & Life.RESET


@pytest.mark.parametrize("chunk", NEARLY_ANY, ids=lambda chunk: chunk.name)
def test_only_init_begins(hooks: Hooks, chunk: Chunk) -> None:
    """Whatever else comes belongs to nobody."""
    packet = hooks.sctp(client(hooks.family), served(hooks.family), chunk)
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(packet) == passed(packet)


@pytest.mark.parametrize("chunk", [15, 16, 17, 64, 192, 255])
def test_chunks_that_nobody_knows_say_nothing(hooks: Hooks, chunk: int) -> None:
    """In mid-stream they pass like data, and the association stays as it is."""
    family = hooks.family
    c, f, b = client(family), served(family), backend(family)
    begin(hooks)
    flags = hooks.table.only().flags
    assert hooks.ingress(hooks.sctp(c, f, chunk)) == passed(hooks.sctp(c, b, chunk))
    assert hooks.table.only().flags == flags


def test_a_client_of_a_backend_elsewhere_keeps_its_port(hooks: Hooks) -> None:
    """It gets an address of the node; a second one with its port has to wait."""
    family = hooks.family
    hooks.write_device(node_address(family), UPLINK)
    first, second = client(family), client(family, 3)
    sent = [hooks.sctp(each, served(family, 2), Chunk.INIT) for each in (first, second)]
    inside = [hooks.ingress(each).data for each in sent]
    source = End(node_address(family), first.port)
    expected = passed(hooks.sctp(source, backend(family, 2), Chunk.INIT))
    assert hooks.egress(inside[0]) == expected
    with hooks.node.counting(family, source_exhausted=1):
        assert hooks.egress(inside[1]) == dropped(inside[1])
    answer = hooks.sctp(backend(family, 2), source, Chunk.INIT_ACK)
    back = hooks.ingress(answer)
    assert back == passed(hooks.sctp(backend(family, 2), first, Chunk.INIT_ACK))


def test_a_direct_association_does_not_move_one_aside(hooks: Hooks) -> None:
    """One that is older than ours, with its ends on the wire: no port can be changed (rule 4)."""
    family = hooks.family
    hooks.write_device(node_address(family), UPLINK)
    c, b = client(family), backend(family, 2)
    hooks.egress(hooks.ingress(hooks.sctp(c, served(family, 2), Chunk.INIT)).data)
    before = hooks.table.only()
    direct = hooks.sctp(c, b, Chunk.DATA)
    with hooks.node.counting(family):
        assert hooks.ingress(direct) == passed(direct)
    assert hooks.table.only() == before


def test_what_would_need_another_port_is_dropped(hooks: Hooks) -> None:
    """A second service with the same backend, from one port; a backend that talks to itself."""
    family = hooks.family
    b = backend(family)
    hooks.node.apply(plan(family, SCTP, 3, [b], frontends=[served(family, 3)], local=1))
    hooks.ingress(hooks.sctp(client(family), served(family), Chunk.INIT))
    hairpin = hooks.sctp(b, served(family), Chunk.INIT)
    again = hooks.sctp(client(family), served(family, 3), Chunk.INIT)
    for packet in (again, hairpin):
        with hooks.node.counting(family, source_exhausted=1):
            assert hooks.ingress(packet) == dropped(packet)
    assert len(hooks.table.claimed()) == 1


def test_a_service_without_endpoints_refuses(hooks: Hooks) -> None:
    """By ICMP port unreachable."""
    family = hooks.family
    made = refusing(family, SCTP, 4)
    hooks.node.apply(made)
    packet = hooks.sctp(client(family), frontend(family, 4), Chunk.INIT)
    with hooks.node.counting(family, packet_refused=1):
        assert hooks.ingress(packet).verdict == TC_REDIRECT


def test_nothing_leaves_untranslated(hooks: Hooks) -> None:
    """A ClusterIP means nothing elsewhere: the node's own sockets of SCTP are not translated."""
    packet = hooks.sctp(client(hooks.family), served(hooks.family), Chunk.INIT)
    with hooks.node.counting(hooks.family, packet_leak=1):
        assert hooks.egress(packet) == dropped(packet)


@pytest.mark.parametrize("length", [12, 13, 15])
def test_a_packet_without_a_chunk_is_none(hooks: Hooks, length: int) -> None:
    """It is cut off before it says anything."""
    raw = hooks.sctp(client(hooks.family), served(hooks.family), Chunk.INIT, b"")
    # the kernel runs no test on so little without a link-layer header
    if hooks.wire is not Wire.BARE:
        cut = raw[: len(raw) - 16 + length]
        with hooks.node.counting(hooks.family):
            assert hooks.ingress(cut) == passed(cut)
