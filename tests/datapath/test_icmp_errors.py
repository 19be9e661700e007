# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about translated packets: each end is told of the packet that it has sent.

What a program has to make of an error is another error from the same builders, so that every
checksum is checked: the message's, the quoted header's, and the quoted packet's own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.kernel.addresses import UPLINK, NodeAddressFlag
from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, IP_BYTES, TEXT, End

TCP, UDP = Protocol.TCP, Protocol.UDP
NO_MATTER = struct.pack("!I", 1300)  # what an error says besides: the MTU of what is too big
KINDS = {
    Family.IPV4: ((3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (11, 1), (12, 0)),
    Family.IPV6: ((1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 1), (127, 0)),
}
NO_ERRORS = {
    # echo and its reply, redirect, timestamp, beyond all; echo, reply, neighbours, redirect
    Family.IPV4: (0, 8, 5, 13, 35, 36),
    Family.IPV6: (128, 129, 135, 136, 137, 255),
}
TOO_BIG = {Family.IPV4: (3, 4), Family.IPV6: (2, 0)}
# services with a backend elsewhere and on this node
ELSEWHERE, HERE = 1, 2


@contextmanager
def on_uplink(node: Node, family: Family, wire: Wire, directory: Path) -> Iterator[Hooks]:
    """Give the hooks of an uplink, on a node that knows its address and has both services."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]), plan(family, protocol, 2, [2], local=1))
    with Hooks(node, family, wire, directory) as found:
        found.write_device(node_address(family), UPLINK)
        found.path.write_addresses({node_address(family): NodeAddressFlag.PORTS})
        yield found
        found.path.write_addresses({})


@pytest.fixture(params=list(Wire), ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of an uplink."""
    with on_uplink(node, family, request.param, tmp_path) as found:
        yield found


class Flow(NamedTuple):
    """A connection's ends: as its client has them, and as its backend does."""

    client: End
    frontend: End
    backend: End
    source: End


def opened(hooks: Hooks, protocol: Protocol, number: int = ELSEWHERE) -> Flow:
    """Begin a connection; its client is an outside one."""
    family = hooks.family
    c, f, b = client(family), frontend(family, number), backend(family, number)
    inside = hooks.ingress(hooks.first(protocol, c, f))
    assert inside == passed(hooks.first(protocol, c, b))
    if number == HERE:
        return Flow(c, f, b, c)
    hooks.egress(inside.data)
    return Flow(c, f, b, hooks.table.only().source)


def router(family: Family) -> bytes:
    """Return the address of somebody between the ends."""
    return backend(family, 200).address


def error(
    hooks: Hooks,
    sender: bytes,
    receiver: bytes,
    about: bytes,
    kind: tuple[int, int] | None = None,
    *,
    whole: bool = False,
) -> bytes:
    """Return an error about a packet; IPv4's quote 8 bytes of its payload unless `whole`."""
    family = hooks.family
    if family is Family.IPV4 and not whole:
        about = about[: (about[0] & 15) * 4 + 8]
    return hooks.icmp(sender, receiver, *(kind or TOO_BIG[family]), NO_MATTER + about)


@pytest.mark.parametrize("whole", [False, True])
def test_the_client_of_a_backend_here_is_told_by_the_service(
    hooks: Hooks, protocol: Protocol, whole: bool
) -> None:
    """Port unreachable, say: the backend's own error leaves in the service's name."""
    flow = opened(hooks, protocol, HERE)
    about = hooks.first(protocol, flow.client, flow.backend)
    sent = error(hooks, flow.backend.address, flow.client.address, about, whole=whole)
    with hooks.node.counting(hooks.family, packet_error=1):
        left = hooks.egress(sent)
    about = hooks.first(protocol, flow.client, flow.frontend)
    service, told = flow.frontend.address, flow.client.address
    assert left == passed(error(hooks, service, told, about, whole=whole))


def test_every_kind_of_error(hooks: Hooks, protocol: Protocol) -> None:
    """They differ in what they say besides, which stays."""
    flow = opened(hooks, protocol, HERE)
    before = hooks.first(protocol, flow.client, flow.backend)
    after = hooks.first(protocol, flow.client, flow.frontend)
    for kind in KINDS[hooks.family]:
        sent = error(hooks, flow.backend.address, flow.client.address, before, kind)
        expected = error(hooks, flow.frontend.address, flow.client.address, after, kind)
        assert hooks.egress(sent) == passed(expected), kind


def test_a_router_on_the_clients_side_of_the_backend_shows_itself(
    hooks: Hooks, protocol: Protocol
) -> None:
    """As traceroute wants it: the client's address is known there, so it may know theirs."""
    flow = opened(hooks, protocol, HERE)
    before = hooks.first(protocol, flow.client, flow.backend)
    after = hooks.first(protocol, flow.client, flow.frontend)
    for sender in (router(hooks.family), node_address(hooks.family)):
        sent = error(hooks, sender, flow.client.address, before)
        assert hooks.egress(sent) == passed(error(hooks, sender, flow.client.address, after))


@pytest.mark.parametrize("whole", [pytest.param(True, marks=pytest.mark.kernel), False])
def test_an_error_to_the_address_that_stands_for_a_client(
    hooks: Hooks, protocol: Protocol, whole: bool
) -> None:
    """It comes in for the node, goes on to the client, and is the service's where it leaves."""
    family, flow = hooks.family, opened(hooks, protocol)
    to_source = hooks.first(protocol, flow.source, flow.backend)
    inside = hooks.first(protocol, flow.client, flow.backend)
    outside = hooks.first(protocol, flow.client, flow.frontend)
    for sender in (router(family), flow.backend.address):
        sent = error(hooks, sender, flow.source.address, to_source, whole=whole)
        with hooks.node.counting(family, packet_error=2):
            came = hooks.ingress(sent)
            left = hooks.egress(came.data)
        told = flow.client.address
        assert came == passed(error(hooks, sender, told, inside, whole=whole))
        # the client may have no way to whom the node's address hides
        assert left == passed(error(hooks, flow.frontend.address, told, outside, whole=whole))


def test_the_node_tells_the_client_in_its_own_name(hooks: Hooks, protocol: Protocol) -> None:
    """It forwards what it has translated, and finds it too big or too old."""
    flow = opened(hooks, protocol)
    node, told = node_address(hooks.family), flow.client.address
    sent = error(hooks, node, told, hooks.first(protocol, flow.client, flow.backend))
    outside = hooks.first(protocol, flow.client, flow.frontend)
    assert hooks.egress(sent) == passed(error(hooks, node, told, outside))


def test_an_address_without_node_ports_is_the_nodes_own_too(
    hooks: Hooks, protocol: Protocol
) -> None:
    """Which addresses serve NodePorts is nobody's business here."""
    hooks.path.write_addresses({node_address(hooks.family): NodeAddressFlag(0)})
    test_the_node_tells_the_client_in_its_own_name(hooks, protocol)


def test_an_error_about_an_answer_goes_to_the_backend(hooks: Hooks, protocol: Protocol) -> None:
    """From the client, or a router on the way to it; the backend has sent something else."""
    flow = opened(hooks, protocol, HERE)
    about = hooks.answer(protocol, flow.frontend, flow.client)
    inside = hooks.answer(protocol, flow.backend, flow.client)
    for sender in (flow.client.address, router(hooks.family)):
        sent = error(hooks, sender, flow.frontend.address, about)
        with hooks.node.counting(hooks.family, packet_error=1):
            came = hooks.ingress(sent)
        assert came == passed(error(hooks, sender, flow.backend.address, inside))


def test_an_error_about_an_answer_leaves_in_the_nodes_name(
    hooks: Hooks, protocol: Protocol
) -> None:
    """The backend knows the client by the node's address alone, and so does its network."""
    flow = opened(hooks, protocol)
    about = hooks.answer(protocol, flow.frontend, flow.client)
    outside = hooks.answer(protocol, flow.backend, flow.source)
    for sender in (flow.client.address, router(hooks.family)):
        came = hooks.ingress(error(hooks, sender, flow.frontend.address, about)).data
        left = hooks.egress(came)
        to = flow.backend.address
        assert left == passed(error(hooks, flow.source.address, to, outside))


def test_a_backend_that_has_sent_what_the_node_cannot_forward(
    hooks: Hooks, protocol: Protocol
) -> None:
    """Answers that are too big for the client's wire: the node says so about what it has now."""
    family, flow = hooks.family, opened(hooks, protocol)
    inside = hooks.answer(protocol, flow.backend, flow.client)
    outside = hooks.answer(protocol, flow.backend, flow.source)
    node, to = node_address(family), flow.backend.address
    left = hooks.egress(error(hooks, node, to, inside))
    assert left == passed(error(hooks, node, to, outside))


def test_a_client_with_another_port(hooks: Hooks, protocol: Protocol) -> None:
    """Its port on the backend's side is not the one that it knows (rule 4)."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    hooks.ingress(hooks.first(protocol, c, f))
    # from the same port to the backend itself: it gets another one
    clashing = hooks.ingress(hooks.first(protocol, c, b))
    other = next(each for each in hooks.table.records() if each.client_port != c.port)
    inner = End(c.address, other.client_port)
    assert clashing == passed(hooks.first(protocol, inner, b))
    sent = error(hooks, b.address, c.address, hooks.first(protocol, inner, b))
    expected = error(hooks, b.address, c.address, hooks.first(protocol, c, b))
    assert hooks.egress(sent) == passed(expected)


def test_nothing_else_is_an_error(hooks: Hooks, protocol: Protocol) -> None:
    """What only looks as if it quoted a packet stays as it is; a redirect that leaves is rule 2."""
    family, flow = hooks.family, opened(hooks, protocol, HERE)
    about = hooks.answer(protocol, flow.frontend, flow.client)
    for kind in NO_ERRORS[family]:
        sent = error(hooks, flow.client.address, flow.frontend.address, about, (kind, 0))
        with hooks.node.counting(family):
            assert hooks.ingress(sent) == passed(sent), kind


def test_errors_about_packets_of_others(hooks: Hooks, protocol: Protocol) -> None:
    """Other ends, another protocol, too little quoted, or told to somebody who has sent nothing."""
    family, flow = hooks.family, opened(hooks, protocol, HERE)
    to, sender = flow.frontend.address, flow.client.address
    about = hooks.answer(protocol, flow.frontend, flow.client)
    other = TCP if protocol is UDP else UDP
    another = client(family, port=40_001)
    # of the ports only the source's
    cut = len(about) - len(about.partition(struct.pack("!H", flow.frontend.port))[0]) - 2
    found = (
        error(hooks, sender, to, hooks.answer(protocol, flow.frontend, another)),
        error(hooks, sender, to, hooks.answer(other, flow.frontend, flow.client)),
        error(hooks, sender, backend(family, 9).address, about),
        hooks.icmp(sender, to, *TOO_BIG[family], NO_MATTER + about[:-cut]),
        hooks.icmp(sender, to, *TOO_BIG[family], NO_MATTER + bytes(12)),
    )
    for sent in found:
        with hooks.node.counting(family):
            assert hooks.ingress(sent) == passed(sent)


def test_an_error_about_a_connection_that_is_over(hooks: Hooks, protocol: Protocol) -> None:
    """Its record says nothing any more."""
    flow = opened(hooks, protocol, HERE)
    longest = hooks.timeout("udp" if protocol is UDP else "tcp_opening")
    hooks.table.age(hooks.table.claimed()[0], longest + 2)
    about = hooks.answer(protocol, flow.frontend, flow.client)
    sent = error(hooks, flow.client.address, flow.frontend.address, about)
    with hooks.node.counting(hooks.family):
        assert hooks.ingress(sent) == passed(sent)


def test_errors_change_nothing(hooks: Hooks) -> None:
    """They may be forged: a connection neither ends by them nor lives on (RFC 5927)."""
    flow = opened(hooks, TCP, HERE)
    hooks.egress(hooks.answer(TCP, flow.backend, flow.client))
    before = hooks.table.records()
    about = hooks.tcp(flow.frontend, flow.client, FIN | ACK)
    for kind in KINDS[hooks.family]:
        hooks.ingress(error(hooks, flow.client.address, flow.frontend.address, about, kind))
    assert hooks.table.records() == before


def test_a_datagram_without_a_checksum(hooks: Hooks) -> None:
    """The quoted one has none afterwards either (RFC 768)."""
    flow = opened(hooks, UDP, HERE)
    about = hooks.udp(flow.frontend, flow.client, checksum=False)
    inside = hooks.udp(flow.backend, flow.client, checksum=False)
    sent = error(hooks, flow.client.address, flow.frontend.address, about)
    expected = error(hooks, flow.client.address, flow.backend.address, inside)
    assert hooks.ingress(sent) == passed(expected)


def test_a_datagram_whose_checksum_becomes_zero(hooks: Hooks) -> None:
    """Written as ones, or it would say that there is none (RFC 768)."""
    flow = opened(hooks, UDP, HERE)
    inside = next(
        each
        for each in (
            hooks.udp(flow.backend, flow.client, struct.pack("!H", n)) for n in range(1 << 16)
        )
        if each[-4:-2] == b"\xff\xff"
    )
    about = hooks.udp(flow.frontend, flow.client, inside[-2:])
    sent = error(hooks, flow.client.address, flow.frontend.address, about)
    expected = error(hooks, flow.client.address, flow.backend.address, inside)
    assert hooks.ingress(sent) == passed(expected)


def test_a_first_fragment_is_quoted(hooks: Hooks) -> None:
    """Of a datagram that was never whole at the other end; a later one has no ports."""
    family = hooks.family
    if family is Family.IPV6:
        return  # its fragments have an extension header
    flow = opened(hooks, UDP, HERE)
    body = hooks.udp(flow.frontend, flow.client)[IP_BYTES[family] :]
    after = hooks.udp(flow.backend, flow.client)[IP_BYTES[family] :]
    if hooks.wire is not Wire.ETHERNET:
        body, after = body[4:], after[4:]
    for fragment, expected in ((0x2000, after), (0x0001, body), (0x1000, body)):
        head = p.PLAIN._replace(fragment=fragment)
        about = p.ip(flow.frontend.address, flow.client.address, UDP, body, head)
        sent = error(hooks, flow.client.address, flow.frontend.address, about, (11, 1))
        if expected is body:
            assert hooks.ingress(sent) == passed(sent)
            continue
        inside = p.ip(flow.backend.address, flow.client.address, UDP, expected, head)
        came = hooks.ingress(sent)
        assert came == passed(
            error(hooks, flow.client.address, flow.backend.address, inside, (11, 1))
        )


def test_errors_of_frames_for_others(hooks: Hooks, protocol: Protocol) -> None:
    """What a promiscuous device sees besides its own is not ours (rule 14)."""
    if hooks.wire is Wire.BARE:
        return
    family, flow = hooks.family, opened(hooks, protocol, HERE)
    about = hooks.answer(protocol, flow.frontend, flow.client)
    sent = error(hooks, flow.client.address, flow.frontend.address, about)
    frame = p.ether(sent, p.ETH_P[family], dst=p.PEER_MAC)
    assert hooks.frame("ingress", frame) == passed(frame)


def test_sctp_is_quoted_without_a_checksum_over_its_ends(node: Node, hooks: Hooks) -> None:
    """Its ports stay the same, and its checksum covers nothing else (RFC 9260 6.8)."""
    family = hooks.family
    b = backend(family, 3, port=80)
    node.apply(plan(family, Protocol.SCTP, 3, [b], local=1))
    c, f = client(family), frontend(family, 3)
    hooks.ingress(hooks.first(Protocol.SCTP, c, f))
    about = hooks.first(Protocol.SCTP, c, b)
    left = hooks.egress(error(hooks, b.address, c.address, about, whole=True))
    outside = hooks.first(Protocol.SCTP, c, f)
    assert left == passed(error(hooks, f.address, c.address, outside, whole=True))


def test_segments_with_options_are_quoted(hooks: Hooks) -> None:
    """In mid-stream; the checksum covers what is quoted, all of it."""
    flow = opened(hooks, TCP, HERE)
    options = b"\x01\x01\x08\x0a" + bytes(8)
    before = p.tcp(flow.client, flow.backend, ACK, TEXT, options=options)
    after = p.tcp(flow.client, flow.frontend, ACK, TEXT, options=options)
    sent = error(hooks, flow.backend.address, flow.client.address, before, whole=True)
    expected = error(hooks, flow.frontend.address, flow.client.address, after, whole=True)
    assert hooks.egress(sent) == passed(expected)
