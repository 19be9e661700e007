# SPDX-License-Identifier: Apache-2.0
"""A connection table of another size: what is open goes on in it (rule 23)."""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.kernel import libbpf, links, load
from pyproxy.kernel.connections import Life, timeout_setting
from pyproxy.kernel.features import probe
from pyproxy.kernel.move import Move
from pyproxy.kernel.pins import remove_tree
from pyproxy.kernel.programs import ADOPT
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family, Protocol
from tests.datapath.covering import Covering, covering
from tests.datapath.ends import backend, client, frontend, node_address, plan
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, FlowTable, Key, Lead, Record, Side
from tests.datapath.hooks import Hooks, passed
from tests.datapath.hooks import Wire as Look
from tests.datapath.node import Node
from tests.datapath.packets import ACK, End
from tests.datapath.services import service
from tests.datapath.wire import FAR, FLAVOURS, NEAR, SERVICE_AT, Wire

TCP, UDP = Protocol.TCP, Protocol.UDP
FEW = 64
ROOM = FEW - 1
HAIRPIN = 7  # a service whose client is its backend


@pytest.fixture(scope="module")
def few(whole_run: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The same node as its programs with a small connection table see it."""
    features, sizes = probe(), Sizes(max_connections=FEW)
    root = whole_run.bpffs / "pyproxy"
    requests = [load.Request(root, family, features, sizes) for family in Family]
    load.finish(load.start(requests))
    found = copy.copy(whole_run)
    found.loaded = {
        each.family: whole_run.loaded[each.family]._replace(
            request=each, digest=each.build().digest
        )
        for each in requests
    }
    found.entries(tmp_path_factory.mktemp("few")).join()
    yield found
    for each in found.loaded.values():
        remove_tree(each.programs)
        remove_tree(each.connections)


class Tables(NamedTuple):
    """The hooks of the programs with the old table, and of those with the new one."""

    old: Hooks
    new: Hooks

    def move(self) -> Move:
        """Return the move from one to the other."""
        directories = (each.node.loaded[each.family].connections for each in self)
        return Move(*directories)


@pytest.fixture(params=["larger", "smaller"])
def nodes(request: pytest.FixtureRequest, node: Node, few: Node) -> tuple[Node, Node]:
    """The node with the old table and with the new one."""
    return (few, node) if request.param == "larger" else (node, few)


@pytest.fixture
def tables(nodes: tuple[Node, Node], family: Family, tmp_path: Path) -> Iterator[Tables]:
    """Both tables, empty, and a service for each protocol."""
    with ExitStack() as undo:
        old, new = (
            undo.enter_context(Hooks(each, family, Look.ETHERNET, tmp_path)) for each in nodes
        )
        for protocol in (TCP, UDP):
            nodes[0].apply(plan(family, protocol))
            nodes[0].apply(plan(family, protocol, HAIRPIN, [HAIRPIN], local=1))
        old.write_device(node_address(family))
        yield Tables(old, new)


@pytest.fixture(scope="module")
def adopting(whole_run: Node, few: Node) -> None:
    """Each of both has a program that brings connections along from the other one's table."""
    for new, old in ((whole_run, few), (few, whole_run)):
        requests = [copy.copy(each.request) for each in new.loaded.values()]
        for request in requests:
            request.former = old.loaded[request.family].connections
        load.finish(load.start(requests))


@pytest.fixture
def looking_back(adopting: None, tables: Tables) -> Iterator[Tables]:
    """Both tables; the programs of the new one look into the old one."""
    programs = tables.new.node.loaded[tables.new.family].programs
    adoption = programs / ADOPT.name
    with links.opened(adoption) as fd:
        load.look_back(programs, begins=True)
        yield tables
        load.look_back(programs, begins=False)
        # the next one needs it again
        assert not adoption.exists()
        libbpf.obj_pin(fd, str(adoption))


class Conversation(NamedTuple):
    """A client and a service's backend."""

    protocol: Protocol
    client: End
    frontend: End
    backend: End

    def begin(self, hooks: Hooks) -> None:
        """Send the first packet."""
        packet = hooks.first(self.protocol, self.client, self.frontend)
        arrives = hooks.first(self.protocol, self.client, self.backend)
        assert hooks.ingress(packet) == passed(arrives)

    def answer(self, hooks: Hooks) -> None:
        """Send the backend's first packet."""
        packet = hooks.answer(self.protocol, self.backend, self.client)
        arrives = hooks.answer(self.protocol, self.frontend, self.client)
        assert hooks.egress(packet) == passed(arrives)

    def go_on(self, hooks: Hooks) -> None:
        """Send a packet of the client's in mid-stream."""
        before, after = (
            hooks.udp(self.client, to) if self.protocol is UDP else hooks.tcp(self.client, to, ACK)
            for to in (self.frontend, self.backend)
        )
        assert hooks.ingress(before) == passed(after)

    def talk(self, hooks: Hooks) -> None:
        """Send the first packets both ways, and another one."""
        self.begin(hooks)
        self.answer(hooks)
        self.go_on(hooks)


def conversation(family: Family, protocol: Protocol, port: int) -> Conversation:
    """Return one with the first service."""
    return Conversation(protocol, client(family, 1, port), frontend(family), backend(family))


def hairpin(family: Family, protocol: Protocol, port: int) -> Conversation:
    """Return one in which the client is the backend, which must see another address."""
    b = backend(family, HAIRPIN)
    return Conversation(protocol, End(b.address, port), frontend(family, HAIRPIN), b)


def by_client(hooks: Hooks) -> dict[End, Record]:
    """Return the records that entries lead to, by client, their numbers and check words apart."""
    return {each.client: each._replace(number=0) for each in hooks.table.records()}


def leads(hooks: Hooks) -> dict[Key, tuple[End, int]]:
    """Return what leads to which client's connection, and as what."""
    return {
        key: (hooks.table.record(to.number).client, to.role)
        for key, to in hooks.table.entries().items()
    }


def numbers(hooks: Hooks) -> list[int]:
    """Return the numbers that entries lead to."""
    return [each.number for each in hooks.table.records()]


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


def test_one_that_begins_while_others_are_copied_is_not_lost(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entries are seen before there is a record for it; it comes along in the end."""
    old, new = tables
    late = conversation(old.family, TCP, 50_000)
    original = vars(Move)["_copy"]

    def copy_then_talk(self: Move, *known: object) -> None:
        original(self, *known)
        if not leads_to(late, old):
            late.talk(old)

    monkeypatch.setattr(Move, "_copy", copy_then_talk)
    move = tables.move()
    move.prepare()
    move.finish()
    assert (move.moved, move.lost) == (1, set())
    late.go_on(new)


def leads_to(each: Conversation, hooks: Hooks) -> bool:
    """Return whether a conversation has a connection."""
    return each.client in by_client(hooks)


def take_over(hooks: Hooks, first: Conversation, second: Conversation) -> Record:
    """Let a connection end, and another one begin in its record; return that."""
    number = record_of(hooks, first).number
    hooks.table.delete(leading_to(hooks, number))
    second.talk(hooks)
    record = record_of(hooks, second)
    if record.number != number:
        hooks.table.write(number, record)
        leading = leading_to(hooks, record.number)
        hooks.table.put({key: Lead(number, to.role) for key, to in leading.items()})
        hooks.table.set_life(record.number, Life(0), 0)
    return record._replace(number=number)


def record_of(hooks: Hooks, each: Conversation) -> Record:
    """Return the record of a conversation."""
    (found,) = (record for record in hooks.table.records() if record.client == each.client)
    return found


def leading_to(hooks: Hooks, number: int) -> dict[Key, Lead]:
    """Return the entries that lead to a record."""
    return {key: to for key, to in hooks.table.entries().items() if to.number == number}


def two_of_one_record(old: Hooks) -> tuple[Conversation, Conversation]:
    """Return a conversation that has begun, and one that will take its record over."""
    first, second = (conversation(old.family, TCP, port) for port in (40_000, 50_000))
    first.talk(old)
    return first, second


def expect_second(new: Hooks, second: Conversation, record: Record) -> None:
    """The second connection goes on in its record's likeness, and nothing else leads to it."""
    second.go_on(new)
    second.answer(new)
    assert by_client(new)[second.client] == record._replace(number=0)
    assert new.table.dangling() == {}


def test_a_record_that_changed_owners_meanwhile(tables: Tables) -> None:
    """One ends after it was copied, and another one begins in the same record of the old table."""
    old, new = tables
    first, second = two_of_one_record(old)
    move = tables.move()
    move.prepare()
    record = take_over(old, first, second)
    move.finish()
    expect_second(new, second, record)


@pytest.mark.parametrize("after", ["entries", "_copy"])
def test_a_record_that_changes_owners_while_it_is_copied(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Between the look at the entries and that at the records, or at the first copy and the next.

    What led to the connection that ended must not lead to the one that began: nobody would ever
    delete it, and answers to a direct connection between the same ends would be dropped.
    """
    old, new = tables
    first, second = two_of_one_record(old)
    move = tables.move()
    where = vars(move)["_old"] if after == "entries" else move
    original, records = getattr(where, after), list[Record]()

    def then_take_over(*arguments: object) -> object:
        result = original(*arguments)
        if not records:
            records.append(take_over(old, first, second))
        return result

    monkeypatch.setattr(where, after, then_take_over)
    move.prepare()
    assert new.table.dangling() == {}
    move.finish()
    expect_second(new, second, records[0])


def test_a_record_that_the_new_programs_have_taken(tables: Tables) -> None:
    """A connection that was copied is over there, and its record is another one's by now."""
    old, new = tables
    first, second = two_of_one_record(old)
    move = tables.move()
    move.prepare()
    record = take_over(new, first, second)
    move.finish()
    assert record_of(new, second) == record
    expect_second(new, second, record)
    # it had not ended in the old table
    first.go_on(new)
    first.answer(new)


def test_what_the_new_programs_have_begun_stays(tables: Tables) -> None:
    """A client whose first packet came to the old programs, and comes again to the new ones."""
    old, new = tables
    late = conversation(old.family, TCP, 40_000)
    move = tables.move()
    move.prepare()
    late.begin(old)
    late.talk(new)
    wanted = new.table.only()
    move.finish()
    late.go_on(new)
    assert by_client(new) == {late.client: wanted._replace(number=0)}
    assert wanted.number in numbers(new)
    assert new.table.dangling() == {}


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


class Talking:
    """A backend in the near namespace, and clients of its service in the far one."""

    def __init__(self, wire: Wire, family: Family, undo: ExitStack) -> None:
        self._wire, self._family, self._undo = wire, family, undo
        self._flavour = FLAVOURS[family]
        self._listener = undo.enter_context(wire.socket(NEAR, family, TCP))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self._flavour.backend(1))
        self._listener.listen()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def connect(self) -> None:
        """Make another connection to the service."""
        made = self._undo.enter_context(self._wire.socket(FAR, self._family, TCP))
        made.connect(self._flavour.service(SERVICE_AT[NEAR]))
        served = self._undo.enter_context(self._listener.accept()[0])
        served.settimeout(made.gettimeout())
        self._pairs.append((made, served))
        self.talk()

    def talk(self) -> None:
        """Send something both ways on every connection."""
        for made, served in self._pairs:
            for sender, receiver in ((made, served), (served, made)):
                sender.sendall(b"still there?")
                assert receiver.recv(64) == b"still there?"


def test_a_packet_brings_its_connection_along(looking_back: Tables, protocol: Protocol) -> None:
    """A request or an answer whose connection is only in the old table: with state and age."""
    old, new = looking_back
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
    old, new = looking_back
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
    old, new = looking_back
    f, peer = frontend(old.family), client(old.family, 9)
    assert old.egress(old.udp(f, peer)) == passed(old.udp(f, peer))
    answer = new.udp(peer, f)
    assert new.ingress(answer) == passed(answer)
    assert leads(new) == leads(old)


def test_what_is_nowhere_is_looked_for_once(looking_back: Tables, protocol: Protocol) -> None:
    """Connections begin, and direct traffic passes, as if there were no former table."""
    old, new = looking_back
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
    old, new = looking_back
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


def test_one_that_came_along_is_not_moved_again(looking_back: Tables, protocol: Protocol) -> None:
    """The move leaves it as its packets have made it, and keeps no second record of it."""
    old, new = looking_back
    before, late = (conversation(old.family, protocol, port) for port in (40_000, 50_000))
    before.talk(old)
    move = looking_back.move()
    move.prepare()
    late.begin(old)
    late.answer(new)
    late.go_on(new)
    wanted = by_client(new)
    move.finish()
    assert by_client(new) == wanted
    assert new.table.claimed() == numbers(new)
    assert len(numbers(new)) == 2
    assert new.table.dangling() == {}


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
