# SPDX-License-Identifier: Apache-2.0
"""What new programs have begun or ended before a move comes there stays so (rules 7 and 23)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel import links, load, testrun
from pyproxy.kernel.connections import Life
from pyproxy.kernel.move import FRAME, Moved
from pyproxy.kernel.programs import MOVE
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, OPENED, Key, Lead, Role, Side
from tests.datapath.moving import (
    Adoption,
    Tables,
    by_client,
    conversation,
    hairpin,
    hooks_of,
    numbers,
    with_table,
)
from tests.datapath.node import Node
from tests.datapath.packets import End

TCP, UDP = Protocol.TCP, Protocol.UDP
MORE = 128


def test_a_move_that_was_killed_is_made_again(tables: Tables) -> None:
    """What has come along by then may have ended, and what was opened since is there."""
    old, new, move = tables
    moved, ended, left, fresh = (
        conversation(old.family, TCP, port) for port in (40_000, 41_000, 42_000, 43_000)
    )
    for each in (moved, ended, left):
        each.talk(old)
    last = max(record.number for record in old.table.records())
    programs = new.node.loaded[old.family].programs
    with links.opened(programs / load.of_former(MOVE, 0)) as fd:
        testrun.repeat(fd, FRAME.pack(0, 0, 0, 0, 0, 0, 0), last)
    assert len(by_client(new)) == 2
    fresh.talk(new)
    assert move.run() == Moved(3, 0)
    assert new.table.claimed() == numbers(new)
    assert new.table.dangling() == {}
    for each in (moved, left, fresh):
        each.go_on(new)
        each.answer(new)


@pytest.mark.parametrize(
    ("then", "now", "wanted"),
    [
        (ANSWERED, OPENED, ANSWERED),
        (ESTABLISHED, OPENED, ESTABLISHED),
        (OPENED, ESTABLISHED, ESTABLISHED),
        # what took that back is not to be told from what had not seen it
        (ESTABLISHED | Life.RESET, ESTABLISHED, ESTABLISHED),
        (ESTABLISHED | Life.FIN_CLIENT | Life.FIN_BACKEND, OPENED, ESTABLISHED),
        (ESTABLISHED, Life.CLAIMED, Life.CLAIMED),
    ],
)
def test_states_that_were_reached_over_there_are_taken_over(
    tables: Tables, then: Life, now: Life, wanted: Life
) -> None:
    """A backend's answer by a device whose programs were former ones yet."""
    old, new, move = tables
    mine = conversation(old.family, TCP, 40_000)
    mine.begin(old)
    assert move.run() == Moved(1, 0)
    old.table.set_life(old.table.only().number, then, 0)
    new.table.set_life(new.table.only().number, now, 0)
    assert move.run() == Moved(1, 0)
    assert new.table.only().flags == wanted


@pytest.mark.parametrize("differs", ["check", "backend", "client", "frontend"])
def test_states_of_another_connection_are_not_taken_over(tables: Tables, differs: str) -> None:
    """The new programs have made one of the same client to another backend, for example."""
    old, new, move = tables
    mine = conversation(old.family, TCP, 40_000)
    mine.talk(old)
    assert move.run() == Moved(1, 0)
    other = End(backend(old.family, 3).address, 9)
    record = new.table.only()._replace(flags=OPENED)
    change = {differs: record.check ^ 1 if differs == "check" else other}
    new.table.write(record.number, record._replace(**change))  # type: ignore[arg-type]  # one field of two types
    assert move.run() == Moved(1, 0)
    assert new.table.only().flags == OPENED


@pytest.mark.parametrize("state", [Life.SOURCE_CLAIMED, Life.SOURCE_READY])
def test_a_source_that_is_being_chosen_stays(tables: Tables, state: Life) -> None:
    """Whoever chooses it has the last word."""
    old, new, move = tables
    mine = hairpin(old.family, TCP, 40_000)
    mine.begin(old)
    assert move.run() == Moved(1, 0)
    old.egress(old.first(TCP, mine.client, mine.backend))
    record = new.table.only()
    new.table.set_life(record.number, record.flags | state, 0)
    wanted = new.table.only()
    assert move.run() == Moved(1, 0)
    assert new.table.only() == wanted


def test_a_source_whose_answers_are_another_ones_is_not_taken_over(tables: Tables) -> None:
    """It is chosen anew, as by the first packet."""
    old, new, move = tables
    mine = hairpin(old.family, TCP, 40_000)
    mine.begin(old)
    assert move.run() == Moved(1, 0)
    old.egress(old.first(TCP, mine.client, mine.backend))
    key = Key(mine.backend, old.table.only().source, TCP, Side.INGRESS)
    number = new.table.only().number
    # another one that the table has: this may be its first or its last
    taken = {key: Lead(number - 1 if number > 1 else number + 1, Role.REPLY)}
    new.table.put(taken)
    assert move.run() == Moved(1, 0)
    record = new.table.records()[0]
    assert not record.flags & (Life.SOURCE_CLAIMED | Life.SOURCE_READY)
    assert taken.items() <= new.table.entries().items()


def test_answers_that_are_another_ones_are_left_to_it(tables: Tables) -> None:
    """The new programs talk to the same backend by the same port: this connection is lost."""
    old, new, move = tables
    mine, other = (conversation(old.family, TCP, port) for port in (40_000, 50_000))
    mine.talk(old)
    other.talk(new)
    record = new.table.only()
    key = Key(mine.backend, mine.client, TCP, Side.EGRESS)
    new.table.put({key: Lead(record.number, Role.REPLY)})
    wanted = new.table.entries()
    assert move.run() == Moved(0, 1)
    assert new.table.entries() == wanted
    assert new.table.claimed() == [record.number]


@pytest.fixture(scope="module")
def three(
    whole_run: Node, few: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[tuple[Node, Node], Adoption]]:
    """Give the same node with two other tables, and what moves connections from both to it."""
    with with_table(whole_run, tmp_path_factory.mktemp("more"), MORE) as more:
        adoption = Adoption(whole_run, more, few)
        yield (few, more), adoption
        adoption.close()


@pytest.mark.parametrize("by", ["packets", "the move"])
def test_two_former_tables_the_newer_first(
    node: Node, three: tuple[tuple[Node, Node], Adoption], tmp_path: Path, family: Family, by: str
) -> None:
    """A move from one to the other was killed, and the next one is to a third size."""
    formers, lender = three
    with (
        lender.lent() as adoption,
        hooks_of((*formers, node), family, tmp_path) as (oldest, older, new),
    ):
        first, second, both = (conversation(family, UDP, port) for port in (40_000, 41_000, 42_000))
        for each in (first, both):
            each.begin(oldest)
        for each in (second, both):
            each.talk(older)
        move = adoption.move(family)
        move.begin()
        if by == "packets":
            for each in (first, second, both):
                each.answer(new)
        else:
            # both lead there, the older one in vain
            assert move.run() == Moved(4, 0)
        assert len(by_client(new)) == 3
        assert by_client(new)[both.client].flags == by_client(older)[both.client].flags
        assert new.table.dangling() == {}
