# SPDX-License-Identifier: Apache-2.0
"""Rule 3: what answers a packet from a frontend's own address is not for the service.

A socket of the node, or the kernel's masquerading, may use an address and port that is a
frontend as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.kernel.connections import Life
from pyproxy.kernel.marks import endpoint_hash, frontend_bit
from pyproxy.kernel.packetpath import REFRESH_TICKS
from pyproxy.model import Family, Protocol
from pyproxy.tables import Kind
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import Key, Lead, Role, Side, begin_tick
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, PEER_MAC, RST, SYN, End, ether

TCP, UDP = Protocol.TCP, Protocol.UDP
PASSING = Life.CLAIMED | Life.READY | Life.UDP | Life.PASS


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service for each protocol by an address of the node."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, kind=Kind.EXTERNAL_IP, local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.path.write_addresses({frontend(family).address: NodeAddressFlag(0)})
        yield found
        found.path.write_addresses({})


@pytest.mark.kernel
def test_rule_03_an_answer_to_a_frontends_address_passes(hooks: Hooks) -> None:
    """A datagram that leaves from there has its answer let through, untouched."""
    family = hooks.family
    c, f = client(family), frontend(family)
    question, answer = hooks.udp(f, c), hooks.udp(c, f)
    with hooks.node.counting(family, packet_pass=1):
        assert hooks.egress(question) == passed(question)
        assert hooks.egress(question) == passed(question)
        assert hooks.ingress(answer) == passed(answer)
        assert hooks.ingress(answer) == passed(answer)
    record = hooks.table.only()
    assert record.flags == PASSING
    assert hooks.table.entries() == {Key(c, f, UDP, Side.INGRESS): Lead(record.number, Role.PASS)}


def test_rule_03_somebody_elses_answer_opens_nothing(hooks: Hooks) -> None:
    """Who has the address, but is not this node, may answer late: the client is the service's."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.path.write_addresses({})
    with hooks.node.counting(family):
        assert hooks.egress(hooks.udp(f, c)) == passed(hooks.udp(f, c))
    assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, b))


def test_rule_03_other_clients_are_served_meanwhile(hooks: Hooks) -> None:
    """The entry is for the one who was asked, and for the port that asked."""
    family = hooks.family
    f, b = frontend(family), backend(family)
    hooks.egress(hooks.udp(f, client(family)))
    for c in (client(family, 2), client(family, port=40_001)):
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, b))


def test_rule_03_the_entry_lives_by_who_asks(hooks: Hooks) -> None:
    """Who asks keeps it alive, as a stream from the second second on; then the service is served.

    Its answers do not: a client that kube-proxy has served before would never be served by us.
    """
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    question, answer = hooks.udp(f, c), hooks.udp(c, f)
    hooks.egress(question)
    number = hooks.table.only().number
    hooks.table.age(number, REFRESH_TICKS + 1)
    old = hooks.table.record(number).seen
    assert hooks.ingress(answer) == passed(answer)
    assert (hooks.table.record(number).flags, hooks.table.record(number).seen) == (PASSING, old)
    assert hooks.egress(question) == passed(question)
    record = hooks.table.record(number)
    assert record.flags == PASSING | Life.ESTABLISHED
    assert record.seen > old
    hooks.table.age(number, hooks.timeout("udp") + 1)
    assert hooks.ingress(answer) == passed(answer)
    hooks.table.age(number, hooks.timeout("udp_stream") + 1)
    assert hooks.ingress(answer) == passed(hooks.udp(c, b))
    record = hooks.table.only()
    assert record.flags == Life.CLAIMED | Life.READY | Life.UDP
    assert hooks.table.claimed() == [record.number]


def test_rule_03_a_fresh_entry_is_not_written_again(hooks: Hooks) -> None:
    """A datagram costs no write while the entry was seen within a second."""
    family = hooks.family
    question = hooks.udp(frontend(family), client(family))
    hooks.egress(question)
    number = hooks.table.only().number
    begin_tick()
    hooks.table.age(number, REFRESH_TICKS)
    old = hooks.table.record(number).seen
    hooks.egress(question)
    assert hooks.table.record(number).seen == old


def test_rule_03_what_only_shares_a_mark_is_no_frontend(hooks: Hooks) -> None:
    """Different ends share a mark: what answers such a one may well be for the service."""
    family = hooks.family
    f, c = frontend(family), client(family)
    wanted = endpoint_hash(*f), frontend_bit(*f)
    ends = (End(client(family, n).address, port) for n in range(9, 99) for port in range(1, 65536))
    other = next(end for end in ends if (endpoint_hash(*end), frontend_bit(*end)) == wanted)
    packet = hooks.udp(other, c)
    with hooks.node.counting(family):
        assert hooks.egress(packet) == passed(packet)
    assert not hooks.table.claimed()


def test_rule_03_a_connection_to_the_service_stays(hooks: Hooks) -> None:
    """Who is being served already is not cut off by a stray datagram."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.udp(c, f))
    stray = hooks.udp(f, c)
    with hooks.node.counting(family):
        assert hooks.egress(stray) == passed(stray)
    assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, b))
    assert hooks.egress(hooks.udp(b, c)) == passed(hooks.udp(f, c))


def test_rule_03_frames_that_a_bridge_forwards_write_nothing(hooks: Hooks) -> None:
    """What is not this node's own is nobody's to answer here."""
    family = hooks.family
    packet = hooks.udp(frontend(family), client(family))
    frame = ether(packet, 0x0800 if family is Family.IPV4 else 0x86DD, dst=PEER_MAC)
    assert hooks.frame("egress", frame) == passed(frame)
    assert not hooks.table.claimed()


@pytest.mark.parametrize("flags", [SYN, SYN | ACK, ACK, FIN | ACK, RST])
def test_rule_03_tcp_needs_no_entry(hooks: Hooks, flags: int) -> None:
    """Only a SYN without ACK begins a connection, so that answers pass by themselves."""
    family = hooks.family
    c, f = client(family), frontend(family)
    leaving = hooks.tcp(f, c, flags)
    with hooks.node.counting(family):
        assert hooks.egress(leaving) == passed(leaving)
        for answer in (SYN | ACK, ACK, RST | ACK, FIN | ACK, RST, SYN | RST, SYN | FIN):
            packet = hooks.tcp(c, f, answer)
            assert hooks.ingress(packet) == passed(packet)
    assert not hooks.table.claimed()
