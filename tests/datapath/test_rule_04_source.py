# SPDX-License-Identifier: Apache-2.0
"""Rule 4 where the backend sees an address of this node: direct traffic that nobody has seen begin.

Between both hooks such a connection has the ends of a direct one from the same port. It gives up
that port when a packet of the direct one comes in, in whichever direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Key, Lead, Record, Role, Side, begin_tick
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, RST, SYN

TCP, UDP = Protocol.TCP, Protocol.UDP
HERE = 2  # the service whose backend is on this node


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink; services with a backend elsewhere and one on this node."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol), plan(family, protocol, HERE, [HERE], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        yield found


def hidden(hooks: Hooks, protocol: Protocol) -> Record:
    """Make a connection whose backend sees the node; return its record."""
    c, f, b = client(hooks.family), frontend(hooks.family), backend(hooks.family)
    hooks.egress(hooks.ingress(hooks.first(protocol, c, f)).data)
    source = hooks.table.only().source
    back = hooks.ingress(hooks.answer(protocol, b, source))
    hooks.egress(back.data)
    if protocol is TCP:
        hooks.ingress(hooks.tcp(c, f, ACK))
    return hooks.table.only()


def goes_on(hooks: Hooks, protocol: Protocol, source_before: Record) -> Record:
    """Check that a connection works in both directions, by another port on this node."""
    c, f, b = client(hooks.family), frontend(hooks.family), backend(hooks.family)
    record = hooks.table.only()
    assert record.inner.port != c.port
    assert record.source == source_before.source
    assert record.flags == source_before.flags
    inside = hooks.ingress(hooks.further(protocol, c, f))
    assert inside == passed(hooks.further(protocol, record.inner, b))
    assert hooks.egress(inside.data) == passed(hooks.further(protocol, record.source, b))
    back = hooks.ingress(hooks.further(protocol, b, record.source))
    assert back == passed(hooks.further(protocol, b, record.inner))
    assert hooks.egress(back.data) == passed(hooks.further(protocol, f, c))
    assert {key: lead.role for key, lead in hooks.table.entries().items()} == {
        Key(c, f, protocol, Side.INGRESS): Role.REQUEST,
        Key(record.inner, b, protocol, Side.EGRESS): Role.REQUEST,
        Key(b, record.source, protocol, Side.INGRESS): Role.REPLY,
        Key(b, record.inner, protocol, Side.EGRESS): Role.REPLY,
    }
    return record


@pytest.mark.parametrize(
    "flags", [pytest.param(ACK, marks=pytest.mark.kernel), FIN | ACK, RST, SYN | ACK]
)
@pytest.mark.parametrize("answers", [False, True], ids=["client", "backend"])
def test_rule_04_an_older_direct_connection_goes_on(
    hooks: Hooks, flags: int, answers: bool
) -> None:
    """Whichever of its ends says something first, both connections work."""
    c, b = client(hooks.family), backend(hooks.family)
    before = hidden(hooks, TCP)
    counters = hooks.node.counters(hooks.family)
    direct = hooks.tcp(b, c, flags) if answers else hooks.tcp(c, b, flags)
    assert hooks.ingress(direct) == passed(direct)
    assert hooks.grown(counters) == {"packet_clash": 1}
    for each in (hooks.tcp(c, b, ACK), hooks.tcp(b, c, ACK)):
        assert hooks.ingress(each) == passed(each)
        assert hooks.egress(each) == passed(each)
    goes_on(hooks, TCP, before)


def test_rule_04_a_backend_that_begins(hooks: Hooks, protocol: Protocol) -> None:
    """What it sends from the port it serves, a datagram's answer among that, is no answer."""
    c, b = client(hooks.family), backend(hooks.family)
    before = hidden(hooks, protocol)
    direct = hooks.first(protocol, b, c)
    assert hooks.ingress(direct) == passed(direct)
    assert hooks.egress(direct) == passed(direct)
    goes_on(hooks, protocol, before)


def test_rule_04_who_begins_directly_gets_another_port(hooks: Hooks, protocol: Protocol) -> None:
    """The service's connection was first: it stays as it is (test_rule_04.py)."""
    c, b = client(hooks.family), backend(hooks.family)
    before = hidden(hooks, protocol)
    after = hooks.ingress(hooks.first(protocol, c, b))
    assert after != passed(hooks.first(protocol, c, b))
    assert next(each for each in hooks.table.records() if each.service) == before


@pytest.mark.parametrize("answers", [False, True], ids=["client", "backend"])
def test_rule_04_what_answers_a_client_that_is_seen_is_its(hooks: Hooks, answers: bool) -> None:
    """A backend on this node answers by the ends of a direct connection: that says nothing."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    hooks.ingress(hooks.tcp(c, f, SYN))
    # the client's port is another connection's, too
    hooks.ingress(hooks.tcp(c, frontend(family), SYN))
    record = next(each for each in hooks.table.records() if each.frontend == f)
    back = hooks.tcp(b, c, SYN | ACK) if answers else hooks.tcp(c, b, ACK)
    assert hooks.ingress(back) == passed(back)
    assert hooks.table.record(record.number).inner == c
    if answers:
        assert hooks.egress(back) == passed(hooks.tcp(f, c, SYN | ACK))


@pytest.mark.parametrize("older", [False, True], ids=["just-not-over", "over"])
def test_rule_04_a_connection_that_is_over_keeps_its_port(hooks: Hooks, older: bool) -> None:
    """What it would have taken for its own passes anyway."""
    record = hidden(hooks, TCP)
    begin_tick()
    flags = record.flags | Life.ESTABLISHED
    hooks.table.set_life(record.number, flags, hooks.timeout("tcp_established") + older)
    direct = hooks.tcp(client(hooks.family), backend(hooks.family), ACK)
    assert hooks.ingress(direct) == passed(direct)
    kept = hooks.table.only().inner == client(hooks.family)
    assert kept is older


def test_rule_04_while_a_source_is_chosen(hooks: Hooks) -> None:
    """Two must not change a record at once: the packet is sent again."""
    record = hidden(hooks, TCP)
    hooks.table.set_life(record.number, record.flags | Life.SOURCE_CLAIMED, 0)
    direct = hooks.tcp(client(hooks.family), backend(hooks.family), ACK)
    assert hooks.ingress(direct) == dropped(direct)
    assert hooks.table.only().inner == client(hooks.family)
    hooks.table.set_life(record.number, record.flags, 0)
    assert hooks.ingress(direct) == passed(direct)
    goes_on(hooks, TCP, hooks.table.only())


def test_rule_04_a_port_of_another_connection_is_not_taken(hooks: Hooks) -> None:
    """Where no port is free the connection stays as it is."""
    c, b = client(hooks.family), backend(hooks.family)
    record = hidden(hooks, TCP)
    lead = Lead(record.number + 1, Role.REPLY)
    taken = [Key(b, c._replace(port=port), TCP, Side.EGRESS) for port in range(1024, 65536)]
    others = dict.fromkeys(set(taken) - hooks.table.entries().keys(), lead)
    hooks.table.put(others)
    before = hooks.node.counters(hooks.family)
    direct = hooks.tcp(c, b, ACK)
    assert hooks.ingress(direct) == passed(direct)
    assert hooks.grown(before) == {}
    assert hooks.table.record(record.number)._replace(seen=0) == record._replace(seen=0)
    assert others.items() <= hooks.table.entries().items()
