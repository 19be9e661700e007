# SPDX-License-Identifier: Apache-2.0
"""Rule 7: a record or an entry that has become another connection's translates nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from pyproxy.tables import PortRange
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import Key, Lead, Record, Role, Side
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and services with one backend each."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]), plan(family, protocol, 2, [2]))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def opened(hooks: Hooks, protocol: Protocol, number: int) -> Record:
    """Begin a connection to the service with this number; return its record."""
    family = hooks.family
    c, f, b = client(family, number), frontend(family, number), backend(family, number)
    hooks.ingress(hooks.first(protocol, c, f))
    hooks.egress(hooks.answer(protocol, b, c))
    return next(each for each in hooks.table.records() if each.client == c)


def later(hooks: Hooks, protocol: Protocol, src: End, dst: End) -> bytes:
    """Return a packet that is not a connection's first one; UDP has no such thing."""
    return hooks.tcp(src, dst, ACK) if protocol is TCP else hooks.udp(src, dst)


def test_rule_07_an_entry_that_leads_to_anothers_record(hooks: Hooks, protocol: Protocol) -> None:
    """It is counted and deleted, and its packets go on as if it had never been there."""
    one, two = opened(hooks, protocol, 1), opened(hooks, protocol, 2)
    request = Key(one.client, one.frontend, protocol, Side.INGRESS)
    reply = Key(one.backend, one.inner, protocol, Side.EGRESS)
    hooks.table.put({request: Lead(two.number, Role.REQUEST), reply: Lead(two.number, Role.REPLY)})
    leaving = later(hooks, protocol, one.backend, one.client)
    with hooks.node.counting(hooks.family, stale=1):
        assert hooks.egress(leaving) == passed(leaving)
    assert reply not in hooks.table.entries()
    if protocol is TCP:
        data = hooks.tcp(one.client, one.frontend, ACK)
        with hooks.node.counting(hooks.family, stale=1):
            assert hooks.ingress(data) == passed(data)
        assert request not in hooks.table.entries()
        hooks.table.put({request: Lead(two.number, Role.REQUEST)})
    first = hooks.first(protocol, one.client, one.frontend)
    with hooks.node.counting(hooks.family, stale=1, packet_open=1, packet_in=1):
        assert hooks.ingress(first) == passed(hooks.first(protocol, one.client, one.backend))
    other = later(hooks, protocol, two.client, two.frontend)
    assert hooks.ingress(other) == passed(later(hooks, protocol, two.client, two.backend))
    assert hooks.table.entries()[request].number not in (one.number, two.number)
    assert hooks.table.dangling() == {}


def test_rule_07_a_direct_connection_by_ends_that_lead_to_anothers_record(hooks: Hooks) -> None:
    """Its SYN+ACK comes through, and nothing of it is translated."""
    one, two = opened(hooks, TCP, 1), opened(hooks, TCP, 2)
    hooks.table.put({Key(one.backend, one.inner, TCP, Side.EGRESS): Lead(two.number, Role.REPLY)})
    syn, answer = (
        hooks.first(TCP, one.client, one.backend), hooks.answer(TCP, one.backend, one.client)
    )  # fmt: skip
    assert hooks.ingress(syn) == passed(syn)
    assert hooks.egress(answer) == passed(answer)


FIELDS = ("client", "frontend", "backend", "client_port", "proto", "service")


def torn(record: Record, other: Record, field: str) -> Record:
    """Return a record of which one field is another's already."""
    values = record._asdict()
    values[field] = getattr(other, field)
    if field == "client_port":
        values[field] = record.client_port + 1
    if field == "proto":
        values[field] = TCP if record.proto == UDP else UDP
    return Record(**values)


@pytest.mark.parametrize("field", [*FIELDS, "check"])
def test_rule_07_a_record_that_is_being_written(
    hooks: Hooks, protocol: Protocol, field: str
) -> None:
    """A record whose fields are not of one connection translates in neither direction."""
    one, two = opened(hooks, protocol, 1), opened(hooks, protocol, 2)
    hooks.table.write(one.number, torn(one, two, field))
    leaving = later(hooks, protocol, one.backend, one.client)
    with hooks.node.counting(hooks.family, stale=1):
        assert hooks.egress(leaving) == dropped(leaving)
    if protocol is TCP:
        data = hooks.tcp(one.client, one.frontend, ACK)
        with hooks.node.counting(hooks.family, stale=1):
            assert hooks.ingress(data) == dropped(data)


@pytest.mark.parametrize("flags", [Life(0), Life.CLAIMED], ids=["free", "claimed"])
def test_rule_07_a_record_that_is_not_ready(hooks: Hooks, protocol: Protocol, flags: Life) -> None:
    """What is free or only claimed is nobody's connection, whatever is still written there."""
    one = opened(hooks, protocol, 1)
    hooks.table.set_life(one.number, flags, 0)
    reply = Key(one.backend, one.inner, protocol, Side.EGRESS)
    leaving = later(hooks, protocol, one.backend, one.client)
    with hooks.node.counting(hooks.family, stale=1):
        assert hooks.egress(leaving) == (dropped if flags else passed)(leaving)
    # one that is being made needs what leads to it
    assert (reply in hooks.table.entries()) is bool(flags)
    if flags:
        return
    first = hooks.first(protocol, one.client, one.frontend)
    with hooks.node.counting(hooks.family, stale=1, packet_open=1, packet_in=1):
        assert hooks.ingress(first) == passed(hooks.first(protocol, one.client, one.backend))


def test_rule_07_a_record_of_the_other_protocol(hooks: Hooks) -> None:
    """Protocols are compared even where everything else is the same."""
    tcp = opened(hooks, TCP, 1)
    udp = next(
        each
        for each in (opened(hooks, UDP, 1), *hooks.table.records())
        if each.client == tcp.client and each.proto == UDP
    )
    tcp = next(each for each in hooks.table.records() if each.proto == TCP)
    key = Key(tcp.backend, tcp.inner, TCP, Side.EGRESS)
    hooks.table.put({key: Lead(udp.number, Role.REPLY)})
    leaving = hooks.tcp(tcp.backend, tcp.client, ACK)
    with hooks.node.counting(hooks.family, stale=1):
        assert hooks.egress(leaving) == passed(leaving)


def test_rule_07_a_source_that_is_not_whole(hooks: Hooks, protocol: Protocol) -> None:
    """The node's address that stands for a client has a check of its own."""
    family = hooks.family
    b = backend(family, 7)
    hooks.node.apply(plan(family, protocol, 3, [b], local=1))
    hooks.write_device(node_address(family))
    c = End(b.address, 40_000)
    inner = hooks.ingress(hooks.first(protocol, c, frontend(family, 3))).data
    hooks.egress(inner)
    record = hooks.table.only()
    changed = record._replace(source=record.source._replace(port=record.source.port ^ 1))
    hooks.table.write(record.number, changed)
    with hooks.node.counting(family, stale=1):
        assert hooks.egress(inner) == dropped(inner)
    hooks.table.write(record.number, record)
    assert hooks.egress(inner).data == hooks.first(protocol, record.source, b)


def test_rule_07_an_end_is_not_taken_for_the_other(hooks: Hooks) -> None:
    """An entry whose role does not fit its packets is nobody's."""
    family = hooks.family
    one = opened(hooks, TCP, 1)
    hooks.table.put(
        {
            Key(one.client, one.frontend, TCP, Side.INGRESS): Lead(one.number, Role.REPLY),
            Key(one.backend, one.inner, TCP, Side.EGRESS): Lead(one.number, Role.REQUEST),
        }
    )
    for run, packet in (
        (hooks.ingress, hooks.tcp(one.client, one.frontend, ACK)),
        (hooks.egress, hooks.tcp(one.backend, one.client, ACK)),
    ):
        with hooks.node.counting(family, stale=1):
            assert run(packet) == passed(packet)


def with_source(hooks: Hooks, c: End, number: int) -> Record:
    """Begin a connection from outside to a service's backend elsewhere; return its record."""
    first = hooks.first(TCP, c, frontend(hooks.family, number))
    assert hooks.egress(hooks.ingress(first).data).verdict == passed(first).verdict
    wanted = (c, frontend(hooks.family, number))
    return next(each for each in hooks.table.records() if (each.client, each.frontend) == wanted)


@pytest.mark.parametrize("shared", ["client", "service"])
@pytest.mark.parametrize("which", range(4), ids=["request", "answer", "request-out", "answer-in"])
def test_rule_07_one_end_in_common_is_not_enough(hooks: Hooks, shared: str, which: int) -> None:
    """An entry that leads to a connection of the same client's, or with the same backend."""
    family = hooks.family
    hooks.write_device(node_address(family), UPLINK)
    if shared == "client":
        # both get the same source, as their backends tell them apart
        hooks.configure(ports=PortRange(2_000, 1))
    one = with_source(hooks, client(family, 1), 1)
    same = shared == "client"
    two = with_source(hooks, client(family, 1 if same else 2), 2 if same else 1)
    key, role = list(one.leads().items())[which]
    hooks.table.put({key: Lead(two.number, role)})
    run = hooks.ingress if key.side is Side.INGRESS else hooks.egress
    packet = hooks.tcp(key.src, key.dst, ACK)
    with hooks.node.counting(family, stale=1):
        assert run(packet) == passed(packet)
    assert key not in hooks.table.entries()


def test_rule_07_a_number_beyond_the_table(hooks: Hooks) -> None:
    """An entry that leads nowhere is stale: a SYN takes its place."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN))
    hooks.table.clear()
    beyond = hooks.table.connections.max + 5
    hooks.table.put({Key(c, f, TCP, Side.INGRESS): Lead(beyond, Role.REQUEST)})
    assert hooks.ingress(hooks.tcp(c, f, SYN)) == passed(hooks.tcp(c, b, SYN))
    assert len(hooks.table.claimed()) == 1
