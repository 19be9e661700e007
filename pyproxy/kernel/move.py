# SPDX-License-Identifier: Apache-2.0
"""Moving connections into a table of another size, under traffic (datapath rule 23).

What there is is copied before the programs that use the new table are attached, and what was
opened meanwhile after they are. For those, records of the new table are held in reserve: a
record can only be taken by compare-and-exchange, which is not to be had from here.
"""

from __future__ import annotations

import sys
from collections.abc import Set as AbstractSet
from pathlib import Path

from pyproxy.errors import MapFullError
from pyproxy.kernel.connections import Life
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.kernel.table import Connection, Entry, Table

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
            if entry.key in self._new.keys(self._new.record(entry.number))
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
        # a record that the new programs have taken since is another connection's
        begun = {each: new for each, new in self._numbers.items() if self._is_its(each, new)}
        self._numbers = begun.copy()
        self._copy(begun.keys())
        for each, new in begun.items():
            self._catch_up(each, new)
        for number in self._reserve - self._taken:
            self._new.records.store(number, 0)
        self._old.close()
        self._new.close()

    def _copy(self, known: AbstractSet[Connection]) -> None:
        """Copy all records but those of known connections, and all entries.

        Entries that lead to another connection's record stay behind: nothing would ever delete
        them, and the packets that find them belong to nobody.
        """
        records: dict[int, tuple[bytes, set[bytes]]] = {}
        for entry in self._old.entries():
            # the first of the two or four entries that lead to a record decides what it says
            if entry.number not in records:
                found = self._old.record(entry.number)
                records[entry.number] = found, self._old.keys(found)
            raw, keys = records[entry.number]
            if entry.key in self._there or entry.key not in keys:
                continue
            connection = self._old.connection(entry.number, raw)
            if connection not in known and not self._copy_record(connection, raw):
                continue
            self._copy_entry(entry, connection)

    def _copy_record(self, connection: Connection, raw: bytes) -> bool:
        if connection not in self._numbers:
            if not self._free:
                self.lost.add(connection)
                return False
            self._numbers[connection] = self._free.pop()
            self._taken.add(self._numbers[connection])
            # there was no room for it before
            self.lost.discard(connection)
        self._new.records.write(self._numbers[connection], raw)
        return True

    def _copy_entry(self, entry: Entry, connection: Connection) -> None:
        value = self._numbers[connection].to_bytes(4, sys.byteorder) + entry.rest
        try:
            # the new programs may have made a connection of this client's already
            self._new.lead(entry.key, value, self._taken)
        except MapFullError:
            self.lost.add(connection)

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
        flags, life = _word(before) & 0xFFFFFFFF, _word(now)
        if flags & ~life & Life.SOURCE_READY:
            self._new.records.write(new, before)
        elif flags & ~life:
            self._new.records.store(new, life | flags)


def _word(record: bytes) -> int:
    return int.from_bytes(record[:8], sys.byteorder)


def life_word(flags: int, ticks: int) -> int:
    """Return the life of a record that is in a state and was seen at a time in ticks."""
    return flags | ticks << 32
