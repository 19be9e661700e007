# SPDX-License-Identifier: Apache-2.0
"""Connections that begin, end or change while a table is moved (rules 7 and 23)."""

from __future__ import annotations

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.kernel.move import Move
from pyproxy.model import Protocol
from tests.datapath.flowtable import Key, Lead, Record
from tests.datapath.hooks import Hooks
from tests.datapath.moving import Conversation, Tables, by_client, conversation, numbers

TCP = Protocol.TCP


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
