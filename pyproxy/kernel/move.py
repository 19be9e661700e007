# SPDX-License-Identifier: Apache-2.0
"""Moving connections into a table of another size, under traffic (datapath rule 23).

What there is is copied before the programs that use the new table are attached, and what was
opened meanwhile after they are. For those, records of the new table are held in reserve: a
record can only be taken by compare-and-exchange, which is not to be had from here.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

from pyproxy.errors import MapFullError
from pyproxy.kernel.connections import FIN, Life
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.kernel.table import Connection, Entry, Table, life_of

RESERVE = 1024


class Move:
    """From one table to another one of the same version of layout."""

    def __init__(self, old: Path, new: Path) -> None:
        self._old = Table(old, write=False)
        self._new = Table(new, write=True)
        self._numbers: dict[Connection, int] = {}
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._reserve: set[int] = set()
        self._there: AbstractSet[bytes] = frozenset()
        self._in_use = False
        self.lost: set[Connection] = set()

    @property
    def moved(self) -> int:
        """How many connections were moved."""
        return len(self._numbers)

    def prepare(self) -> None:
        """Copy what there is, and hold records in reserve.

        Nobody uses the new table yet, unless an earlier move was killed: then what is there
        stays, and only what is not comes along.
        """
        there = {
            entry.key: entry.number
            for entry in self._new.entries()
            if self._new.knows(self._new.record(entry.number), entry)
        }
        self._there = there.keys()
        room = set(range(1, self._new.records.max)) - set(there.values())
        self._free = sorted(room)
        self._copy(frozenset())
        # what a connection has become while so many were copied
        self._copy(frozenset())
        held = life_word(int(Life.CLAIMED), now_ticks())
        # others are opened meanwhile, and need room
        self._free = self._free[: min(RESERVE, len(self._free) // 2)]
        self._reserve = set(self._free)
        for number in self._reserve:
            self._new.records.store(number, held)

    def finish(self) -> None:
        """Copy what was opened meanwhile, and let go of everything; nobody uses the old table."""
        self._in_use = True
        # a record that the new programs have taken since is another connection's
        begun = {each: new for each, new in self._numbers.items() if self._is_its(each, new)}
        self._numbers = begun.copy()
        self._copy(begun.keys())
        # where a packet brought its connection along at the same time, one of both has given way
        self._copy(self._numbers.keys())
        for each, new in begun.items():
            self._catch_up(each, new)
        self._release(self._numbers.keys() - begun.keys())
        for number in self._reserve - self._taken:
            self._new.records.store(number, 0)
        self._old.close()
        self._new.close()

    def _copy(self, known: AbstractSet[Connection]) -> None:
        """Copy all records but those of known connections, and all entries.

        Entries that lead to another connection's record stay behind: nothing would ever delete
        them, and the packets that find them belong to nobody.
        """
        entries = [each for each in self._old.entries() if each.key not in self._there]
        # what a record says is read once for the two or four entries that lead to it
        numbers = dict.fromkeys(each.number for each in entries)
        records = {number: self._old.record(number) for number in numbers}
        # where there is not room for all, what is over makes room for what is not
        for number, raw in sorted(records.items(), key=lambda item: _rank(item[1])):
            connection = self._old.connection(number, raw)
            if raw and connection not in known and (self._in_use or _is_settled(raw)):
                self._copy_record(connection, raw)
        for entry in entries:
            raw = records[entry.number]
            connection = self._old.connection(entry.number, raw)
            if connection in self._numbers and self._old.knows(raw, entry):
                self._copy_entry(entry, connection)

    def _copy_record(self, connection: Connection, raw: bytes) -> None:
        if connection not in self._numbers:
            if not self._free:
                self.lost.add(connection)
                return
            self._numbers[connection] = self._free.pop()
            self._taken.add(self._numbers[connection])
            # there was no room for it before
            self.lost.discard(connection)
        self._new.write(self._numbers[connection], raw)

    def _copy_entry(self, entry: Entry, connection: Connection) -> None:
        entry = entry._replace(number=self._numbers[connection])
        try:
            # the new programs may have made a connection of this client's already
            written = self._new.lead(entry, self._taken)
        except MapFullError:
            self.lost.add(connection)
            return
        # or they have taken the record, and deleted what led there just before this was written
        if written and self._in_use and not self._is_its(connection, entry.number):
            self._new.forget(entry)

    def _release(self, copied: AbstractSet[Connection]) -> None:
        """Give records back to which nothing leads: packets have brought those along."""
        led = {entry.number for entry in self._new.entries()}
        for connection in [each for each in copied if self._numbers[each] not in led]:
            self._new.records.store(self._numbers.pop(connection), 0)

    def _is_its(self, connection: Connection, new: int) -> bool:
        """Return whether a record of the new table is that connection's yet."""
        _, check = connection
        return self._new.connection(new, self._new.record(new)) == (new, check)

    def _catch_up(self, connection: Connection, new: int) -> None:
        """Take over what the last packets in the old table have made of a connection."""
        old, _ = connection
        before, now = self._old.record(old), self._new.record(new)
        if self._old.connection(old, before) != connection or not self._is_its(connection, new):
            return
        flags, life = life_of(before) & 0xFFFFFFFF, life_of(now)
        if flags & ~life & Life.SOURCE_READY:
            self._new.records.write(new, before)
        elif flags & ~life:
            self._new.records.store(new, life | flags)


def _rank(raw: bytes) -> int:
    """Return how soon a connection may be missed: the lower, the later."""
    life = life_of(raw)
    if life & Life.RESET or life & FIN == FIN:
        return 2
    return 0 if life & Life.ESTABLISHED else 1


def _is_settled(raw: bytes) -> bool:
    """Return whether a copy of a connection is good for longer than a moment.

    What waits for its backend's answer or for its source is another thing with the next packet:
    it is copied when nobody changes it any more, unless a packet brings it along before.
    """
    life = life_of(raw)
    is_answered = bool(life & (Life.UDP | Life.PASS | Life.REPLIED))
    return is_answered and bool(life & Life.SOURCE_READY or not life & Life.SOURCE_WANTED)


def life_word(flags: int, ticks: int) -> int:
    """Return the life of a record that is in a state and was seen at a time in ticks."""
    return flags | ticks << 32
