# SPDX-License-Identifier: Apache-2.0
"""Moving connections into a table of another size, under traffic (datapath rule 23).

What there is is copied before the programs that use the new table are attached, and what was
opened meanwhile after they are. For those, records of the new table are held in reserve: a
record can only be taken by compare-and-exchange, which is not to be had from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.errors import MapFullError
from pyproxy.kernel import libbpf
from pyproxy.kernel.btf import Field, Types
from pyproxy.kernel.connections import Life
from pyproxy.kernel.leads import Leads
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import now_ticks

RESERVE = 1024
READ_TRIES = 100

# The number of a record in the old table, and its check word: whose it is there.
Connection: TypeAlias = tuple[int, bytes]


class Entry(NamedTuple):
    """An entry of `nat`: its key, the number of its connection, the rest of its value."""

    key: bytes
    number: int
    rest: bytes


class _Table:
    """A connection table: its records, and what leads to them."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.records = ArrayMap(str(directory / "connections"), write=write)
        self.nat = libbpf.obj_get(str(directory / "nat"))
        self._info = libbpf.map_info(self.nat)
        self._leads = Leads(
            self.records.layout,
            self.records.stride,
            Types(libbpf.btf(self._info.btf_id)).fields(self._info.btf_key_type),
            self._info.key_size,
        )
        self._life = self.records.layout["life"].offset
        # connection_check(): all that a connection keeps until it ends
        self._check = _slice(self.records.layout["check"])

    def entries(self) -> list[Entry]:
        """Return all entries."""
        dumped = libbpf.map_dump(self.nat, self._info.key_size, self._info.value_size)
        return [Entry(key, _number(value), value[4:]) for key, value in dumped]

    def record(self, number: int) -> bytes:
        """Return a record, b"" if it is no connection's."""
        raw = self.records.read(number)
        for _ in range(READ_TRIES):
            # one that was being written meanwhile has another life now
            if (again := self.records.read(number)) == raw:
                return raw if raw[self._life] & Life.READY else b""
            raw = again
        return b""

    def leads(self, entry: Entry, raw: bytes) -> bool:
        """Return whether an entry belongs to this record, and not to one that was there before."""
        return bool(raw) and entry.key in self._leads.keys(raw)

    def connection(self, number: int, raw: bytes) -> Connection:
        """Return whose record this is, in whatever state."""
        return number, raw[self._check]

    def lead(self, key: bytes, value: bytes, ours: AbstractSet[int]) -> None:
        """Write an entry, unless there is one that leads to a record which is none of `ours`.

        Raises MapFullError.
        """
        if libbpf.map_insert(self.nat, key, value):
            return
        there = libbpf.map_lookup(self.nat, key, self._info.value_size) or value
        if _number(there) in ours:
            libbpf.map_update(self.nat, key, value)

    def close(self) -> None:
        self.records.close()
        os.close(self.nat)


class Move:
    """From one table to another one of the same version of layout."""

    def __init__(self, old: Path, new: Path) -> None:
        self._old = _Table(old, write=False)
        self._new = _Table(new, write=True)
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
            if self._new.leads(entry, self._new.record(entry.number))
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
        begun = self._numbers.copy()
        self._copy(begun.keys())
        for (old, _), new in begun.items():
            self._catch_up(old, new)
        for number in self._reserve - self._taken:
            self._new.records.store(number, 0)
        self._old.close()
        self._new.close()

    def _copy(self, known: AbstractSet[Connection]) -> None:
        """Copy all records but those of known connections, and all entries.

        Entries that lead to another connection's record stay behind: nothing would ever delete
        them, and the packets that find them belong to nobody.
        """
        records: dict[int, bytes] = {}
        for entry in self._old.entries():
            # the first of the two or four entries that lead to a record decides what it says
            if entry.number not in records:
                records[entry.number] = self._old.record(entry.number)
            raw = records[entry.number]
            if entry.key in self._there or not self._old.leads(entry, raw):
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

    def _catch_up(self, old: int, new: int) -> None:
        """Take over what the last packets in the old table have made of a connection."""
        before, now = self._old.record(old), self._new.record(new)
        if not before or not now:
            return
        flags, life = _word(before) & 0xFFFFFFFF, _word(now)
        if flags & ~life & Life.SOURCE_READY:
            self._new.records.write(new, before)
        elif flags & ~life:
            self._new.records.store(new, life | flags)


def _slice(field: Field) -> slice:
    return slice(field.offset, field.offset + field.size)


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)


def _word(record: bytes) -> int:
    return int.from_bytes(record[:8], sys.byteorder)


def life_word(flags: int, ticks: int) -> int:
    """Return the life of a record that is in a state and was seen at a time in ticks."""
    return flags | ticks << 32
