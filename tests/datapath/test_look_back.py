# SPDX-License-Identifier: Apache-2.0
"""What finds nothing in a new connection table is looked for in the former one (rule 23)."""

from __future__ import annotations

import pytest

from pyproxy.kernel.connections import Life, timeout_setting
from pyproxy.model import Protocol
from tests.datapath.ends import client
from tests.datapath.flowtable import Key, Lead, Role, Side
from tests.datapath.hooks import Hooks, dropped, passed
from tests.datapath.moving import (
    FEW,
    Tables,
    by_client,
    conversation,
    hairpin,
    leads,
    own_frontend,
)
from tests.datapath.packets import ACK

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture
def looking_back(tables: Tables) -> Tables:
    """Both tables; the programs of the new one look into the old one."""
    tables.move.begin()
    return tables


def test_a_packet_brings_its_connection_along(looking_back: Tables, protocol: Protocol) -> None:
    """A request or an answer whose connection is only in the old table: with state and age."""
    old, new, _ = looking_back
    asked, answered = (conversation(old.family, protocol, port) for port in (40_000, 50_000))
    for each in (asked, answered):
        each.begin(old)
    before = by_client(old)
    asked.begin(new)
    answered.answer(new)
    after = by_client(new)
    assert after[asked.client] == before[asked.client]
    assert Life.REPLIED in after[answered.client].flags
    assert leads(new) == leads(old)
    old.table.delete(old.table.entries())
    for each in (asked, answered):
        each.answer(new)
        each.go_on(new)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_packet_brings_its_source_along(
    looking_back: Tables, protocol: Protocol, chosen: bool
) -> None:
    """The node's address that was chosen stays; one that was not is chosen here."""
    old, new, _ = looking_back
    mine = hairpin(old.family, protocol, 40_000)
    first = old.first(protocol, mine.client, mine.backend)
    mine.begin(old)
    if chosen:
        sent = old.egress(first)
        assert new.egress(first) == sent
    else:
        record = old.table.only()
        old.table.set_life(record.number, record.flags | Life.SOURCE_CLAIMED, 0)
        assert new.egress(first).verdict == passed(first).verdict
    record = new.table.only()
    assert Life.SOURCE_READY in record.flags
    answer = new.answer(protocol, mine.backend, record.source)
    assert new.ingress(answer) == passed(new.answer(protocol, mine.backend, mine.client))
    assert len(leads(new)) == 4
    assert new.table.dangling() == {}


def test_a_datagram_that_passes_does_so_here_too(looking_back: Tables) -> None:
    """What a node's own socket has begun from a frontend's address stays its own (rule 3)."""
    old, new, _ = looking_back
    with own_frontend(old) as f, own_frontend(new):
        peer = client(old.family, 9)
        assert old.egress(old.udp(f, peer)) == passed(old.udp(f, peer))
        answer = new.udp(peer, f)
        assert new.ingress(answer) == passed(answer)
        assert leads(new) == leads(old)


def test_what_is_nowhere_is_looked_for_once(looking_back: Tables, protocol: Protocol) -> None:
    """Connections begin, and direct traffic passes, as if there were no former table."""
    old, new, _ = looking_back
    fresh = conversation(old.family, protocol, 40_000)
    fresh.talk(new)
    assert by_client(old) == {}
    other = client(old.family, 2)
    for run, src, dst in (
        (new.ingress, other, fresh.backend),
        (new.egress, fresh.backend, other),
    ):
        packet = new.tcp(src, dst, ACK)
        assert run(packet) == passed(packet)


@pytest.mark.parametrize("why", ["expired", "another's", "not ready", "torn"])
def test_what_is_over_is_not_brought_along(
    looking_back: Tables, protocol: Protocol, why: str
) -> None:
    """A record that is no connection's any more, or not this packet's, stays where it is."""
    old, new, _ = looking_back
    mine = conversation(old.family, protocol, 40_000)
    mine.talk(old)
    record = old.table.only()
    if why == "expired":
        name = timeout_setting(record.flags)
        old.table.age(record.number, old.timeout(name) + 1)
    elif why == "another's":
        other = record._replace(client=client(old.family, 5, 40_000))
        old.table.write(record.number, other)
    elif why == "not ready":
        old.table.set_life(record.number, Life.CLAIMED, 0)
    else:
        old.table.write(record.number, record._replace(check=record.check ^ 1))
    answer = new.answer(protocol, mine.backend, mine.client)
    assert new.egress(answer) == passed(answer)
    assert new.table.entries() == {}
    assert new.table.claimed() == []


def test_a_packet_whose_connection_is_on_its_way_waits(
    looking_back: Tables, protocol: Protocol
) -> None:
    """Another CPU is just bringing it along: untranslated it would end."""
    old, new, _ = looking_back
    mine = conversation(old.family, protocol, 40_000)
    mine.talk(old)
    conversation(old.family, protocol, 50_000).talk(new)
    key = Key(mine.backend, mine.client, protocol, Side.EGRESS)
    new.table.put({key: Lead(new.table.records()[0].number, Role.REPLY)})
    before, after = (new.further(protocol, mine.client, to) for to in (mine.frontend, mine.backend))
    assert new.ingress(before) == dropped(before)
    new.table.delete([key])
    assert new.ingress(before) == passed(after)


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
def test_a_packet_whose_connection_has_no_room_waits(
    looking_back: Tables, protocol: Protocol
) -> None:
    """The table is full: untranslated it would end."""
    old, new, _ = looking_back
    mine = conversation(old.family, protocol, 40_000)
    mine.talk(old)
    fill(new)
    before = new.further(protocol, mine.client, mine.frontend)
    assert new.ingress(before) == dropped(before)


def fill(hooks: Hooks) -> None:
    """Leave no record for new connections."""
    for n in range(FEW - 1):
        conversation(hooks.family, TCP, 30_000 + n).talk(hooks)


@pytest.mark.parametrize("whose", ["another client's", "the other protocol's"])
def test_what_leads_to_a_record_of_others_is_not_brought_along(
    looking_back: Tables, protocol: Protocol, whose: str
) -> None:
    """However whole the record is: a packet brings its own connection along or none."""
    old, new, _ = looking_back
    mine = conversation(old.family, protocol, 40_000)
    if whose == "the other protocol's":
        other = conversation(old.family, TCP if protocol is UDP else UDP, 40_000)
    else:
        other = conversation(old.family, protocol, 50_000)
    other.talk(old)
    (record,) = old.table.records()
    key = Key(mine.backend, mine.client, protocol, Side.EGRESS)
    old.table.put({key: Lead(record.number, Role.REPLY)})
    answer = new.answer(protocol, mine.backend, mine.client)
    assert new.egress(answer) == passed(answer)
    assert new.table.entries() == {}
    assert new.table.claimed() == []
