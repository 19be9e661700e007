# SPDX-License-Identifier: Apache-2.0
"""A connection table as a whole: every entry, and the records that entries lead to, as bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.kernel import libbpf
from pyproxy.kernel.btf import Field, Types
from pyproxy.kernel.connections import Life
from pyproxy.kernel.leads import Leads
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import now_ticks

READ_TRIES = 100

# The number of a record, and its check word: whose it is.
Connection: TypeAlias = tuple[int, bytes]


class Entry(NamedTuple):
    """An entry of `nat`: its key, the number of its connection, the rest of its value."""

    key: bytes
    number: int
    rest: bytes


class Table:
    """The pinned table in a directory: its records, and what leads to them."""

    def __init__(self, directory: Path, *, write: bool) -> None:
        self.records = ArrayMap(str(directory / "connections"), write=write)
        self.nat = libbpf.obj_get(str(directory / "nat"))
        self._info = libbpf.map_info(self.nat)
        self._leads = Leads(
            self.records,
            Types(libbpf.btf(self._info.btf_id)).fields(self._info.btf_key_type),
            self._info.key_size,
        )
        # connection_check(): all that a connection keeps until it ends
        self._check = _slice(self.records.layout["check"])

    def entries(self) -> list[Entry]:
        """Return all entries."""
        dumped = libbpf.map_dump(self.nat, self._info.key_size, self._info.value_size)
        return [Entry(key, _number(value), value[4:]) for key, value in dumped]

    def record(self, number: int) -> bytes:
        """Return a record, b"" if it is no connection's or there is none of this number."""
        raw = b""
        for _ in range(READ_TRIES if number < self.records.max else 0):
            # one that was being written meanwhile has another life now
            if (again := self.records.read(number)) == raw:
                return raw if life_of(raw) & Life.READY else b""
            raw = again
        return b""

    def knows(self, raw: bytes, entry: Entry) -> bool:
        """Return whether an entry belongs to a record; b"" has none."""
        return bool(raw) and entry.key in self._leads.keys(raw)

    def dangling(self) -> list[Entry]:
        """Return the entries that lead to records which know nothing of them."""
        return [each for each in self.entries() if not self.knows(self.record(each.number), each)]

    def connection(self, number: int, raw: bytes) -> Connection:
        """Return whose record this is, in whatever state."""
        return number, raw[self._check]

    def write(self, number: int, raw: bytes) -> None:
        """Write a record that is nobody's; it is a connection's with the last of its bytes.

        Until then it is claimed as of now: as of long ago, a program might take it.
        """
        held = (now_ticks() << 32 | Life.CLAIMED).to_bytes(8, sys.byteorder)
        self.records.write(number, held + raw[len(held) :])
        self.records.store(number, life_of(raw))

    def lead(self, entry: Entry, ours: AbstractSet[int]) -> bool:
        """Write an entry, unless there is one that leads to a record which is none of `ours`.

        Return whether that has changed anything. Raises MapFullError.
        """
        value = entry.number.to_bytes(4, sys.byteorder) + entry.rest
        if libbpf.map_insert(self.nat, entry.key, value):
            return True
        there = libbpf.map_lookup(self.nat, entry.key, self._info.value_size)
        if there is None or there == value or _number(there) not in ours:
            return False
        libbpf.map_update(self.nat, entry.key, value)
        return True

    def forget(self, entry: Entry) -> None:
        """Delete an entry, unless it leads elsewhere by now."""
        there = libbpf.map_lookup(self.nat, entry.key, self._info.value_size)
        if there is not None and _number(there) == entry.number:
            libbpf.map_delete(self.nat, entry.key)

    def close(self) -> None:
        """Close both maps."""
        self.records.close()
        os.close(self.nat)


def life_of(raw: bytes) -> int:
    """Return the life of a record, state and time; it is the first word of it."""
    return int.from_bytes(raw[:8], sys.byteorder)


def _slice(field: Field) -> slice:
    return slice(field.offset, field.offset + field.size)


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)
