# SPDX-License-Identifier: Apache-2.0
"""Rule 9: ports that stand for clients are nobody else's, before and after they do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.kernel.packetpath import ticks
from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind, PortRange
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import ESTABLISHED, OPENING_TICKS, Record, begin_tick
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, RST, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP
PORT = 2_000
ONE_PORT = PortRange(PORT, 1)
RESET = ESTABLISHED | Life.RESET
CLOSED = ESTABLISHED | Life.FIN_CLIENT | Life.FIN_BACKEND
FREE_PORTS = range(1_024, 65_536)


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink; a service whose backend is elsewhere; one port comes first."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        found.configure(ports=ONE_PORT)
        yield found


def begin(hooks: Hooks, protocol: Protocol, number: int = 1, port: int = 40_000) -> Record:
    """Let a client begin a connection that leaves the node, and return what it became."""
    c = client(hooks.family, number, port)
    inside = hooks.ingress(hooks.first(protocol, c, frontend(hooks.family)))
    hooks.egress(inside.data)
    return next(each for each in hooks.table.records() if each.client == c)


def only_this_port(hooks: Hooks) -> None:
    """Leave no other port to those who look for one."""
    hooks.keep_ports(port for port in FREE_PORTS if port != PORT)


def domain(family: Family) -> socket.AddressFamily:
    """Return what sockets call a family."""
    return socket.AF_INET if family is Family.IPV4 else socket.AF_INET6


def test_the_first_port_is_of_the_range(hooks: Hooks, protocol: Protocol) -> None:
    """Nobody is in the way."""
    assert begin(hooks, protocol).source == End(node_address(hooks.family), PORT)


def test_the_range_comes_before_all_others(hooks: Hooks, protocol: Protocol) -> None:
    """Where a client's own port of it is not to be had, another one of it is tried 15 times."""
    ports = range(PORT, PORT + 64)
    hooks.configure(ports=PortRange(PORT, len(ports)))
    first = begin(hooks, protocol).source.port
    hooks.table.clear()
    hooks.keep_ports([first])
    again = begin(hooks, protocol).source.port
    assert again != first
    assert again in ports


def test_a_port_that_a_socket_has(hooks: Hooks, protocol: Protocol) -> None:
    """A socket of the node to which the backend's answers would go keeps them."""
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with closing(socket.socket(domain(hooks.family), kind)) as sock:
        sock.bind(("", PORT))
        if protocol is TCP:
            sock.listen()
        taken = begin(hooks, protocol).source
        assert taken.port != PORT
        assert taken.port in FREE_PORTS
    assert begin(hooks, protocol, 2).source.port == PORT


def test_a_port_that_is_reserved(hooks: Hooks, protocol: Protocol) -> None:
    """ip_local_reserved_ports names ports that somebody needs."""
    hooks.keep_ports([PORT])
    assert begin(hooks, protocol).source.port != PORT
    hooks.keep_ports([PORT - 1, PORT + 1, PORT + 64, PORT - 64])
    assert begin(hooks, protocol, 2).source.port == PORT


def test_a_port_of_a_service(hooks: Hooks, protocol: Protocol) -> None:
    """What is asked for by the node's address and this port is not the client's answer."""
    hooks.write_frontend(End(node_address(hooks.family), PORT), protocol, Kind.EXTERNAL_IP)
    assert begin(hooks, protocol).source.port != PORT


def test_no_port_at_all(hooks: Hooks, protocol: Protocol) -> None:
    """Exhaustion is counted, drops the new one, and harms none that is there."""
    family = hooks.family
    only_this_port(hooks)
    first = begin(hooks, protocol)
    assert first.source.port == PORT
    c = client(family, 2)
    inside = hooks.ingress(hooks.first(protocol, c, frontend(family)))
    with hooks.node.counting(family, source_exhausted=1):
        assert hooks.egress(inside.data) == dropped(inside.data)
    answer = hooks.answer(protocol, backend(family), first.source)
    assert hooks.ingress(answer) == passed(hooks.answer(protocol, backend(family), first.client))


def test_a_client_gets_the_port_that_it_had(hooks: Hooks, protocol: Protocol) -> None:
    """Its backend then knows a new connection from an old one; other clients get other ports."""
    family = hooks.family
    hooks.configure(ports=PortRange(PORT, 20_000))
    found = {}
    for number in range(1, 9):
        hooks.table.clear()
        found[number] = begin(hooks, protocol, number).source.port
        hooks.table.clear()
        assert begin(hooks, protocol, number).source.port == found[number], family
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("flags", [CLOSED, RESET], ids=["closed", "reset"])
def test_a_closed_connections_port_is_free_for_its_client(hooks: Hooks, flags: Life) -> None:
    """At once, and it is not counted as taken from anybody."""
    only_this_port(hooks)
    old = begin(hooks, TCP)
    hooks.table.set_life(old.number, flags | Life.SOURCE_WANTED | Life.SOURCE_READY, 0)
    f2 = frontend(hooks.family, 2)
    hooks.node.apply(plan(hooks.family, TCP, 2, [1]))
    inside = hooks.ingress(hooks.tcp(old.client, f2, SYN))
    with hooks.node.counting(hooks.family, packet_source=1, packet_out=1):
        left = hooks.egress(inside.data)
    expected = hooks.tcp(End(node_address(hooks.family), PORT), backend(hooks.family), SYN)
    assert left == passed(expected)


def test_others_get_the_port_that_was_closed_first(hooks: Hooks) -> None:
    """Only when no other is free; a backend remembers a connection for a while (TIME_WAIT)."""
    family = hooks.family
    two = {PORT, PORT + 1}
    hooks.configure(ports=PortRange(PORT, 2))
    hooks.keep_ports(port for port in FREE_PORTS if port not in two)
    old, older = begin(hooks, TCP, 1), begin(hooks, TCP, 2)
    assert {old.source.port, older.source.port} == two
    ready = CLOSED | Life.SOURCE_WANTED | Life.SOURCE_READY
    hooks.table.set_lives([(old.number, ready, 10), (older.number, ready, 20)])
    inside = hooks.ingress(hooks.tcp(client(family, 3), frontend(family), SYN))
    with hooks.node.counting(family, packet_source=1, packet_out=1, source_taken=1):
        left = hooks.egress(inside.data)
    assert left == passed(hooks.tcp(older.source, backend(family), SYN))
    assert older.client not in {each.client for each in hooks.table.records()}


def test_a_backend_that_remembers_an_older_connection(hooks: Hooks) -> None:
    """In TIME_WAIT it acknowledges that one: the client's reset ends it, and the SYN is sent again.

    The port is this connection's alone, so that the answer is no direct connection's (rule 4).
    """
    family = hooks.family
    record, f, b = begin(hooks, TCP), frontend(family), backend(family)
    back = hooks.ingress(hooks.tcp(b, record.source, ACK))
    assert hooks.egress(back.data) == passed(hooks.tcp(f, record.client, ACK))
    assert not hooks.table.record(record.number).flags & Life.CLASH
    inside = hooks.ingress(hooks.tcp(record.client, f, RST))
    assert hooks.egress(inside.data) == passed(hooks.tcp(record.source, b, RST))


@pytest.mark.parametrize(
    ("age_s", "taken"), [(30, {"source_taken": 1}), (59, {"source_taken": 1}), (61, {})]
)
def test_a_port_is_remembered_as_long_as_a_backend_does(
    hooks: Hooks, age_s: int, taken: dict[str, int]
) -> None:
    """A record that is over still says since when, as long as nobody has taken its place."""
    only_this_port(hooks)
    old = begin(hooks, TCP)
    age = ticks(age_s)
    hooks.table.set_life(old.number, CLOSED | Life.SOURCE_WANTED | Life.SOURCE_READY, age)
    inside = hooks.ingress(hooks.tcp(client(hooks.family, 2), frontend(hooks.family), SYN))
    with hooks.node.counting(hooks.family, packet_source=1, packet_out=1, **taken):
        hooks.egress(inside.data)


@pytest.mark.parametrize("age", [OPENING_TICKS, OPENING_TICKS + 1])
def test_the_port_of_one_that_was_reset(hooks: Hooks, age: int) -> None:
    """The reset may be forged: when nothing came for three seconds, it was not."""
    only_this_port(hooks)
    old = begin(hooks, TCP)
    begin_tick()
    hooks.table.set_life(old.number, RESET | Life.SOURCE_WANTED | Life.SOURCE_READY, age)
    inside = hooks.ingress(hooks.tcp(client(hooks.family, 2), frontend(hooks.family), SYN))
    taken = age > OPENING_TICKS
    expected = {"packet_source": 1, "packet_out": 1, "source_taken": 1}
    with hooks.node.counting(hooks.family, **(expected if taken else {"source_exhausted": 1})):
        hooks.egress(inside.data)


@pytest.mark.parametrize("flags", [ESTABLISHED, ESTABLISHED | Life.FIN_CLIENT], ids=str)
def test_one_that_goes_on_keeps_its_port(hooks: Hooks, flags: Life) -> None:
    """Half-closed ones too."""
    only_this_port(hooks)
    first = begin(hooks, TCP)
    hooks.table.set_life(first.number, flags | Life.SOURCE_WANTED | Life.SOURCE_READY, 0)
    inside = hooks.ingress(hooks.tcp(client(hooks.family, 2), frontend(hooks.family), SYN))
    with hooks.node.counting(hooks.family, source_exhausted=1):
        hooks.egress(inside.data)


def own(hooks: Hooks, protocol: Protocol, flags: int = SYN) -> bytes:
    """Return what the node itself sends to the backend from the port that stands for a client."""
    src, dst = End(node_address(hooks.family), PORT), backend(hooks.family)
    return hooks.tcp(src, dst, flags) if protocol is TCP else hooks.udp(src, dst)


@pytest.mark.kernel
def test_the_nodes_own_gets_another_port(hooks: Hooks, protocol: Protocol) -> None:
    """A socket that comes later, or what the kernel masquerades: both go on, apart."""
    family = hooks.family
    theirs, b = begin(hooks, protocol), backend(family)
    assert theirs.source.port == PORT
    with hooks.node.counting(family, packet_apart=1, packet_source=1, packet_out=1):
        left = hooks.egress(own(hooks, protocol))
    ours = next(each for each in hooks.table.records() if each.flags & Life.OWN)
    assert ours.source.address == node_address(family)
    assert ours.source.port != PORT
    assert bool(ours.flags & Life.UDP) is (protocol is UDP)
    assert left == passed(hooks.first(protocol, ours.source, b))
    assert hooks.egress(own(hooks, protocol)) == left
    answer = hooks.ingress(hooks.answer(protocol, b, ours.source))
    assert answer == passed(hooks.answer(protocol, b, End(node_address(family), PORT)))
    answer = hooks.ingress(hooks.answer(protocol, b, theirs.source))
    assert answer == passed(hooks.answer(protocol, b, theirs.client))
    assert not hooks.table.dangling()


def test_the_nodes_own_connection_lives_and_ends(hooks: Hooks) -> None:
    """Its state is told by what leaves and what comes in; a new one begins where it is over."""
    family = hooks.family
    begin(hooks, TCP)
    b, end = backend(family), End(node_address(family), PORT)
    hooks.egress(own(hooks, TCP))
    ours = next(each for each in hooks.table.records() if each.flags & Life.OWN)
    hooks.ingress(hooks.answer(TCP, b, ours.source))
    assert hooks.table.record(ours.number).flags & Life.REPLIED
    hooks.egress(own(hooks, TCP, ACK))
    assert hooks.table.record(ours.number).flags & Life.ESTABLISHED
    hooks.egress(own(hooks, TCP, FIN | ACK))
    hooks.ingress(hooks.tcp(b, ours.source, FIN | ACK))
    closed = Life.FIN_CLIENT | Life.FIN_BACKEND
    assert hooks.table.record(ours.number).flags & closed == closed
    assert hooks.egress(own(hooks, TCP, ACK)) == passed(hooks.tcp(ours.source, b, ACK))
    with hooks.node.counting(family, packet_apart=1, packet_source=1, packet_out=1):
        left = hooks.egress(own(hooks, TCP))
    again = next(each for each in hooks.table.records() if each.flags & Life.OWN)
    assert left == passed(hooks.tcp(again.source, b, SYN))
    assert not again.flags & closed
    assert again.client == end


def test_the_nodes_own_begins_anew_where_it_was_forgotten(hooks: Hooks) -> None:
    """What was silent for too long is as if it had never been."""
    b = backend(hooks.family)
    begin(hooks, TCP)
    hooks.egress(own(hooks, TCP))
    ours = next(each for each in hooks.table.records() if each.flags & Life.OWN)
    begin_tick()
    hooks.table.set_life(ours.number, ours.flags, hooks.timeout("tcp_opening") + 1)
    with hooks.node.counting(hooks.family, packet_apart=1, packet_source=1, packet_out=1):
        left = hooks.egress(own(hooks, TCP))
    again = next(each for each in hooks.table.records() if each.flags & Life.OWN)
    assert left == passed(hooks.tcp(again.source, b, SYN))


def test_the_nodes_own_from_a_port_that_the_other_end_asks(hooks: Hooks) -> None:
    """The other end is a service's client: what it sends there is none of an answer."""
    family = hooks.family
    asked = End(node_address(family), PORT)
    hooks.node.apply(plan(family, TCP, 1, [2], frontends=[asked], kind=Kind.EXTERNAL_IP))
    other = backend(family)
    hooks.ingress(hooks.tcp(other, asked, SYN))
    packet = own(hooks, TCP)
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, RST], ids=["ACK", "SYN+ACK", "RST"])
def test_only_what_begins_is_told_apart(hooks: Hooks, flags: int) -> None:
    """TCP in mid-stream was there before, or is nobody's."""
    begin(hooks, TCP)
    packet = own(hooks, TCP, flags)
    with hooks.node.counting(hooks.family):
        assert hooks.egress(packet) == passed(packet)


def test_what_goes_elsewhere_is_left_alone(hooks: Hooks, protocol: Protocol) -> None:
    """Only the backend's answers could be mistaken."""
    family = hooks.family
    begin(hooks, protocol)
    packet = hooks.first(protocol, End(node_address(family), PORT), backend(family, 2))
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)


def test_a_connection_that_is_over_gives_way(hooks: Hooks, protocol: Protocol) -> None:
    """The node's own needs no other port then."""
    theirs = begin(hooks, protocol)
    ready = Life.SOURCE_WANTED | Life.SOURCE_READY
    if protocol is TCP:
        hooks.table.set_life(theirs.number, CLOSED | ready, 0)
    else:
        age = hooks.timeout("udp") + 1
        flags = ESTABLISHED | Life.UDP | ready
        hooks.table.set_life(theirs.number, flags, age)
    packet = own(hooks, protocol)
    with hooks.node.counting(hooks.family):
        assert hooks.egress(packet) == passed(packet)
    assert not hooks.table.entries()


def test_no_port_for_the_nodes_own(hooks: Hooks, protocol: Protocol) -> None:
    """It is dropped and counted: from its own port it would cut the client off."""
    begin(hooks, protocol)
    hooks.keep_ports(FREE_PORTS)
    packet = own(hooks, protocol)
    with hooks.node.counting(hooks.family, source_exhausted=1, packet_apart=1):
        assert hooks.egress(packet) == dropped(packet)
    with hooks.node.counting(hooks.family, source_exhausted=1):
        assert hooks.egress(packet) == dropped(packet)
    hooks.keep_ports(())
    with hooks.node.counting(hooks.family, packet_source=1, packet_out=1):
        assert hooks.egress(packet).verdict == passed(packet).verdict
