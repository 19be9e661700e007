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

from pyproxy.errors import MapFullError
from pyproxy.kernel import libbpf
from pyproxy.kernel.btf import Field
from pyproxy.kernel.connections import Life
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import now_ticks

RESERVE = 1024


class _Table:
    """A connection table: its records, and what leads to them."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.records = ArrayMap(str(directory / "connections"), write=write)
        self.nat = libbpf.obj_get(str(directory / "nat"))
        self._info = libbpf.map_info(self.nat)
        self.life = self.records.layout["life"].offset
        # connection_check(): all that a connection keeps until it ends
        self._check = _slice(self.records.layout["check"])

    def entries(self) -> list[tuple[bytes, int, bytes]]:
        """Return each entry: its key, the number of its connection, the rest of its value."""
        dumped = libbpf.map_dump(self.nat, self._info.key_size, self._info.value_size)
        return [(k, int.from_bytes(v[:4], sys.byteorder), v[4:]) for k, v in dumped]

    def record(self, number: int) -> bytes:
        """Return a record, b"" if it is no connection's."""
        raw = self.records.read(number)
        return raw if raw[self.life] & Life.READY else b""

    def is_alike(self, one: bytes, other: bytes) -> bool:
        """Return whether two records are one connection's, in whatever state."""
        return one[self._check] == other[self._check]

    def close(self) -> None:
        self.records.close()
        os.close(self.nat)


class Move:
    """From one table to another one of the same version of layout."""

    def __init__(self, old: Path, new: Path) -> None:
        self._old = _Table(old, write=False)
        self._new = _Table(new, write=True)
        self._numbers: dict[int, int] = {}
        self._reserve: set[int] = set()
        self._there: AbstractSet[bytes] = frozenset()
        self.lost: set[int] = set()

    @property
    def moved(self) -> int:
        """How many connections were moved."""
        return len(self._numbers)

    def prepare(self) -> None:
        """Copy what there is, and hold records in reserve.

        Nobody uses the new table yet, unless an earlier move was killed: then what is there
        stays, and only what is not comes along.
        """
        there = {key: number for key, number, _ in self._new.entries() if self._new.record(number)}
        self._there = there.keys()
        room = set(range(1, self._new.records.max)) - set(there.values())
        self._copy(sorted(room))
        # what a connection has become while so many were copied
        self._copy([])
        free = room - set(self._numbers.values())
        held = life_word(int(Life.CLAIMED), now_ticks())
        # others are opened meanwhile, and need room
        for number in sorted(free)[: min(RESERVE, len(free) // 2)]:
            self._new.records.store(number, held)
            self._reserve.add(number)

    def finish(self) -> None:
        """Copy what was opened meanwhile, and let go of everything; nobody uses the old table."""
        # a record that is another connection's by now has yet to be copied
        begun = {old: new for old, new in self._numbers.items() if not self._changed(old, new)}
        self._numbers = begun.copy()
        self._copy(sorted(self._reserve), known=begun.keys())
        for old, new in begun.items():
            self._catch_up(old, new)
        for number in self._reserve - set(self._numbers.values()):
            self._new.records.store(number, 0)
        self._old.close()
        self._new.close()

    def _copy(self, free: list[int], known: AbstractSet[int] = frozenset()) -> None:
        """Copy all records but the known ones, new ones to `free` numbers, and all entries."""
        entries = [entry for entry in self._old.entries() if entry[0] not in self._there]
        # in the order of the entries, as two or four lead to each record
        numbers = dict.fromkeys(number for _, number, _ in entries)
        copied = {n for n in numbers if n in known or self._copy_record(n, free)}
        for key, number, rest in entries:
            if number not in copied:
                continue
            value = self._numbers[number].to_bytes(4, sys.byteorder) + rest
            try:
                libbpf.map_update(self._new.nat, key, value)
            except MapFullError:
                self.lost.add(number)

    def _copy_record(self, number: int, free: list[int]) -> bool:
        raw = self._old.record(number)
        if raw and number not in self._numbers and free:
            self._numbers[number] = free.pop()
            # there was no room for it before
            self.lost.discard(number)
        if not raw or number not in self._numbers:
            self.lost |= {number} if raw else set()
            return False
        self._new.records.write(self._numbers[number], raw)
        return True

    def _changed(self, old: int, new: int) -> bool:
        """Return whether a record of the old table has become another connection's."""
        before = self._old.record(old)
        return bool(before) and not self._new.is_alike(before, self._new.record(new))

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


def _word(record: bytes) -> int:
    return int.from_bytes(record[:8], sys.byteorder)


def life_word(flags: int, ticks: int) -> int:
    """Return the life of a record that is in a state and was seen at a time in ticks."""
    return flags | ticks << 32
