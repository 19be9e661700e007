# SPDX-License-Identifier: Apache-2.0
"""A connection table of another size: what is open goes on in it (rule 23)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.kernel.move import Move
from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering, covering
from tests.datapath.ends import node_address
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, FlowTable, Side
from tests.datapath.hooks import passed
from tests.datapath.moving import (
    FEW,
    Tables,
    by_client,
    conversation,
    hairpin,
    leads,
    numbers,
)
from tests.datapath.node import Node
from tests.datapath.packets import ACK, End
from tests.datapath.services import service
from tests.datapath.talking import Talking
from tests.datapath.wire import NEAR, SERVICE_AT, Wire

TCP, UDP = Protocol.TCP, Protocol.UDP
ROOM = FEW - 1


def test_what_is_open_goes_on(tables: Tables, protocol: Protocol) -> None:
    """Connections from before and from between, whole; no record stays in reserve."""
    old, new = tables
    before = [conversation(old.family, protocol, 40_000 + n) for n in range(9)]
    for each in before:
        each.talk(old)
    move = tables.move()
    move.prepare()
    between = [conversation(old.family, protocol, 50_000 + n) for n in range(9)]
    for each in between:
        each.talk(old)
    wanted, entries = by_client(old), leads(old)
    move.finish()
    assert by_client(new) == wanted
    assert leads(new) == entries
    assert (move.moved, move.lost) == (18, set())
    assert new.table.claimed() == numbers(new)
    for each in before + between:
        each.go_on(new)
        each.answer(new)


def test_states_that_were_reached_meanwhile_are_taken_over(
    tables: Tables, protocol: Protocol
) -> None:
    """The backend's answer and what follows, while the new table is not used yet."""
    old, new = tables
    begun = conversation(old.family, protocol, 40_000)
    begun.begin(old)
    move = tables.move()
    move.prepare()
    begun.answer(old)
    begun.go_on(old)
    move.finish()
    flags = new.table.only().flags
    assert flags == old.table.only().flags
    assert (ESTABLISHED if protocol is TCP else ANSWERED) in flags
    begun.go_on(new)


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_source_goes_with_its_connection(tables: Tables, protocol: Protocol, when: str) -> None:
    """An address of the node that was chosen before, or only while the table was moved."""
    old, new = tables
    mine = hairpin(old.family, protocol, 40_000)
    first = old.first(protocol, mine.client, mine.backend)
    mine.begin(old)
    move = tables.move()
    if when == "before":
        old.egress(first)
    move.prepare()
    sent = old.egress(first)
    move.finish()
    record = new.table.only()
    assert record.flags & Life.SOURCE_READY
    assert record.source == old.table.only().source
    assert record.source.address == node_address(old.family)
    assert leads(new) == leads(old)
    assert len(leads(new)) == 4
    # the very same packet gets the very same source, and its answer comes back
    assert new.egress(first) == sent
    answer = new.answer(protocol, mine.backend, record.source)
    assert new.ingress(answer) == passed(new.answer(protocol, mine.backend, mine.client))


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
def test_what_has_no_room_is_lost_and_told(tables: Tables) -> None:
    """As many as fit go on; nothing leads to the others."""
    old, new = tables
    before = [conversation(old.family, TCP, 40_000 + n) for n in range(ROOM + 20)]
    for each in before:
        each.talk(old)
    move = tables.move()
    move.prepare()
    late = conversation(old.family, TCP, 50_000)
    late.talk(old)
    move.finish()
    assert move.moved == ROOM
    assert len(move.lost) == 21
    kept = by_client(new)
    gone = {old.table.record(number).client for number, _ in move.lost}
    assert kept.keys() | gone == {each.client for each in [*before, late]}
    assert not kept.keys() & gone
    for each in [*before, late]:
        if each.client in kept:
            each.go_on(new)
        else:
            packet = new.tcp(each.client, each.frontend, ACK)
            assert new.ingress(packet) == passed(packet)
    assert new.table.claimed() == list(range(1, FEW))


def test_a_move_that_was_killed_is_made_again(tables: Tables) -> None:
    """Before anybody used the new table: nothing is lost, and nothing stays in reserve."""
    old, new = tables
    first = conversation(old.family, TCP, 40_000)
    first.talk(old)
    tables.move().prepare()
    again = tables.move()
    again.prepare()
    second = conversation(old.family, TCP, 50_000)
    second.talk(old)
    again.finish()
    # the first one is there already
    assert (again.moved, again.lost) == (1, set())
    assert new.table.claimed() == numbers(new)
    for each in (first, second):
        each.go_on(new)


def test_a_move_that_was_killed_late_is_made_again(tables: Tables) -> None:
    """The new table is in use by then: what was opened or ended there stays so."""
    old, new = tables
    first, later = (conversation(old.family, TCP, port) for port in (40_000, 45_000))
    first.talk(old)
    tables.move().prepare()
    later.talk(new)
    again = tables.move()
    again.prepare()
    again.finish()
    assert again.lost == set()
    for each in (first, later):
        each.go_on(new)


def test_connections_over_a_wire_go_on(
    nodes: tuple[Node, Node], wire: Wire, family: Family, tmp_path: Path, tcx: bool
) -> None:
    """Real ones: from before, from between, and from when the new programs are attached."""
    before, after = nodes
    before.apply(service(family, SERVICE_AT[NEAR], [1], local=1))
    with ExitStack() as undo:
        undo.enter_context(covering(before, wire, tmp_path, tcx=tcx))
        for each in nodes:
            each.forget_connections()
            undo.callback(each.forget_connections)
        talking = Talking(wire, family, undo)
        talking.connect()
        move = Move(*(each.loaded[family].connections for each in nodes))
        move.prepare()
        talking.connect()
        assert Covering(after, wire, tmp_path, tcx=tcx).attach([wire.device]) == {}
        move.finish()
        talking.talk()
        talking.connect()
        assert (move.moved, move.lost) == (2, set())
        assert len(clients_of(after, family)) == 3


def clients_of(node: Node, family: Family) -> set[End]:
    """Return the clients of a node's connections, by what comes in."""
    table = FlowTable(node.loaded[family])
    try:
        return {key.src for key in table.entries() if key.side is Side.INGRESS}
    finally:
        table.close()
