# SPDX-License-Identifier: Apache-2.0
"""A connection table of another size: what is open goes on in it (rule 23)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.kernel.connections import Life, timeout_setting
from pyproxy.kernel.move import Moved
from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering, covering
from tests.datapath.ends import client, node_address
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, OPENED, FlowTable, Side
from tests.datapath.hooks import passed
from tests.datapath.moving import (
    FEW,
    Adoption,
    Tables,
    by_client,
    conversation,
    hairpin,
    leads,
    numbers,
    own_frontend,
)
from tests.datapath.node import Node
from tests.datapath.packets import ACK, End
from tests.datapath.services import service
from tests.datapath.talking import Talking
from tests.datapath.wire import NEAR, SERVICE_AT, Wire

TCP, UDP = Protocol.TCP, Protocol.UDP
ROOM = FEW - 1
BOTH_FIN = Life.FIN_CLIENT | Life.FIN_BACKEND


def test_what_is_open_goes_on(tables: Tables, protocol: Protocol) -> None:
    """Whole, with state and age, in as many records; and once more makes no difference."""
    old, new, move = tables
    before = [conversation(old.family, protocol, 40_000 + n) for n in range(9)]
    for each in before:
        each.talk(old)
    for _ in range(2):
        assert move.run() == Moved(9, 0)
        assert by_client(new) == by_client(old)
        assert leads(new) == leads(old)
        assert new.table.claimed() == numbers(new)
    old.table.delete(old.table.entries())
    for each in before:
        each.go_on(new)
        each.answer(new)


def test_its_packets_are_looked_at(tables: Tables, protocol: Protocol) -> None:
    """The marks of the ends come along, for the new table may have others."""
    old, new, move = tables
    mine = hairpin(old.family, protocol, 40_000)
    mine.begin(old)
    old.egress(old.first(protocol, mine.client, mine.backend))
    entries, records = old.table.entries(), old.table.records()
    old.table.clear()
    for record in records:
        old.table.write(record.number, record)
    old.table.put(entries)
    assert move.run() == Moved(1, 0)
    record = new.table.only()
    answer = new.answer(protocol, mine.backend, record.source)
    assert new.ingress(answer) == passed(new.answer(protocol, mine.backend, mine.client))


@pytest.mark.parametrize("chosen", ["before", "on its way", "claimed"])
def test_a_source_goes_with_its_connection(tables: Tables, protocol: Protocol, chosen: str) -> None:
    """The node's address that was chosen; one that was not is chosen by the new programs."""
    old, new, move = tables
    mine = hairpin(old.family, protocol, 40_000)
    first = old.first(protocol, mine.client, mine.backend)
    mine.begin(old)
    if chosen == "claimed":
        record = old.table.only()
        old.table.set_life(record.number, record.flags | Life.SOURCE_CLAIMED, 0)
    if chosen == "on its way":
        move.begin()
        mine.begin(new)
    sent = old.egress(first)
    assert move.run() == Moved(1, 0)
    if chosen == "claimed":
        sent = new.egress(first)
    record = new.table.only()
    assert record.flags & (Life.SOURCE_READY | Life.SOURCE_CLAIMED) == Life.SOURCE_READY
    assert record.source.address == node_address(old.family)
    if chosen != "claimed":
        assert record.source == old.table.only().source
        assert leads(new) == leads(old)
    assert len(leads(new)) == 4
    # the very same packet gets the very same source, and its answer comes back
    assert new.egress(first) == sent
    answer = new.answer(protocol, mine.backend, record.source)
    assert new.ingress(answer) == passed(new.answer(protocol, mine.backend, mine.client))


def test_a_datagram_that_passes_does_so_here_too(tables: Tables) -> None:
    """What a node's own socket has begun from a frontend's address stays its own (rule 3)."""
    old, new, move = tables
    with own_frontend(old) as f, own_frontend(new):
        peer = client(old.family, 9)
        assert old.egress(old.udp(f, peer)) == passed(old.udp(f, peer))
        assert move.run() == Moved(1, 0)
        answer = new.udp(peer, f)
        assert new.ingress(answer) == passed(answer)
        assert leads(new) == leads(old)


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
def test_all_that_fit_are_moved(tables: Tables) -> None:
    """However long room has to be looked for."""
    old, new, move = tables
    before = [conversation(old.family, TCP, 40_000 + n) for n in range(ROOM)]
    for each in before:
        each.talk(old)
    with new.node.counting(new.family):
        assert move.run() == Moved(ROOM, 0)
    assert new.table.claimed() == list(range(1, FEW))


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
def test_the_last_free_record_is_found(tables: Tables) -> None:
    """Wherever it is: one look at some of them misses it more often than not."""
    old, new, move = tables
    for n in range(ROOM - 1):
        conversation(new.family, TCP, 30_000 + n).talk(new)
    for n in range(16):
        conversation(old.family, TCP, 40_000 + n).talk(old)
        assert move.run() == Moved(1, 0)
        gone = new.table.records()[4 * n - n % 3]
        leading = {key for key, to in new.table.entries().items() if to.number == gone.number}
        new.table.delete(leading)
        new.table.set_life(gone.number, Life(0), 0)
        old.table.clear()


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
def test_what_has_no_room_is_lost_and_told(tables: Tables) -> None:
    """What is established goes on; nothing leads to the others."""
    old, new, move = tables
    before = [conversation(old.family, TCP, 40_000 + n) for n in range(ROOM + 20)]
    for each in before:
        each.talk(old)
    over, opened = before[:10], before[10:20]
    flags = {each.client: ESTABLISHED | BOTH_FIN for each in over}
    flags |= {each.client: ANSWERED for each in opened}
    for record in old.table.records():
        if record.client in flags:
            old.table.set_life(record.number, flags[record.client], 0)
    assert move.run() == Moved(ROOM, 20)
    assert by_client(new).keys() == {each.client for each in before[20:]}
    for each in before[20:]:
        each.go_on(new)
    for each in over:
        packet = new.tcp(each.client, each.frontend, ACK)
        assert new.ingress(packet) == passed(packet)
    assert new.table.claimed() == list(range(1, FEW))


@pytest.mark.parametrize("nodes", ["smaller"], indirect=True)
@pytest.mark.parametrize(
    ("first", "last"),
    [
        (ANSWERED, ESTABLISHED | Life.RESET),
        (ESTABLISHED | Life.FIN_CLIENT, ESTABLISHED | BOTH_FIN),
        (ESTABLISHED, OPENED),
    ],
    ids=["reset", "closed", "half open"],
)
def test_what_is_over_or_half_open_is_missed_first(tables: Tables, first: Life, last: Life) -> None:
    """Where there is room for all but one."""
    old, new, move = tables
    before = [conversation(old.family, TCP, 40_000 + n) for n in range(FEW)]
    for each in before:
        each.talk(old)
    chosen, *others = old.table.records()
    old.table.set_life(chosen.number, last, 0)
    for other in others:
        old.table.set_life(other.number, first, 0)
    assert move.run() == Moved(ROOM, 1)
    assert chosen.client not in by_client(new)


@pytest.mark.parametrize("why", ["expired", "not ready", "torn", "nothing", "another's"])
def test_what_is_over_stays_behind(tables: Tables, protocol: Protocol, why: str) -> None:
    """A record that is no connection's any more, or that no entry leads to."""
    old, new, move = tables
    mine = conversation(old.family, protocol, 40_000)
    mine.talk(old)
    record = old.table.only()
    if why == "expired":
        old.table.age(record.number, old.timeout(timeout_setting(record.flags)) + 1)
    elif why == "not ready":
        old.table.set_life(record.number, Life.CLAIMED, 0)
    elif why == "torn":
        old.table.write(record.number, record._replace(check=record.check ^ 1))
    else:
        (request,) = [each for each in old.table.entries() if each.side is Side.INGRESS]
        lead = old.table.entries()[request]
        old.table.delete([request])
        if why == "another's":
            old.table.put({request: lead._replace(number=lead.number % ROOM + 1)})
    assert move.run() == Moved()
    assert new.table.entries() == {}
    assert new.table.claimed() == []


def test_connections_over_a_wire_go_on(
    nodes: tuple[Node, Node], adoption: Adoption, wire: Wire, family: Family, tmp_path: Path
) -> None:
    """Real ones, from before and from when the new programs are attached."""
    before, after = nodes
    tcx = libbpf.tcx_exists()
    before.apply(service(family, SERVICE_AT[NEAR], [1], local=1))
    move = adoption.move(family)
    with ExitStack() as undo:
        undo.enter_context(covering(before, wire, tmp_path, tcx=tcx))
        for each in nodes:
            each.forget_connections()
            undo.callback(each.forget_connections)
        talking = Talking(wire, family, undo)
        talking.connect()
        talking.connect()
        move.begin()
        assert Covering(after, wire, tmp_path, tcx=tcx).attach([wire.device]) == {}
        assert move.run() == Moved(2, 0)
        adoption.end()
        talking.talk()
        talking.connect()
        assert len(clients_of(after, family)) == 3


def clients_of(node: Node, family: Family) -> set[End]:
    """Return the clients of a node's connections, by what comes in."""
    table = FlowTable(node.loaded[family])
    try:
        return {key.src for key in table.entries() if key.side is Side.INGRESS}
    finally:
        table.close()
