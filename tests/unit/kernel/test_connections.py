# SPDX-License-Identifier: Apache-2.0
"""Which records of the table are connections, and which marks they need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyproxy.kernel import connections
from pyproxy.kernel.btf import Field
from pyproxy.kernel.codec import Codec
from pyproxy.kernel.connections import SLICE, Connections, Life, timeout_setting
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.kernel.packetpath import REFRESH_TICKS, SETTINGS
from pyproxy.tables import ConnectionTimeouts

STRIDE, RECORDS = 128, 3 * SLICE + 10
NOW = 5_000
OPEN = Life.CLAIMED | Life.READY
ESTABLISHED = OPEN | Life.REPLIED | Life.ESTABLISHED
# another one each, in ticks
TIMEOUTS = {name: 100 * n for n, name in enumerate(ConnectionTimeouts._fields, start=1)}

ENDS = ("client", "frontend", "backend", "source")
LAYOUT = {
    "life": Field(0, 8, is_integer=True),
    **{f"{end}.addr": Field(8 + 8 * n, 4, is_integer=False) for n, end in enumerate(ENDS)},
    **{f"{end}.port": Field(12 + 8 * n, 2, is_integer=True) for n, end in enumerate(ENDS)},
    "client_port": Field(40, 2, is_integer=True),
}
NAMES = ("life", "client.addr", "client.port", "frontend.addr", "frontend.port", "backend.addr",
         "backend.port", "source.addr", "source.port", "client_port")  # fmt: skip


class Array:
    """A pinned array out of bytes."""

    def __init__(self, path: str, *, write: bool) -> None:
        assert not write
        is_table = path.endswith("connections")
        self.stride, self.max = (STRIDE, RECORDS) if is_table else (8, len(SETTINGS))
        self.layout = LAYOUT if is_table else {}
        self.raw = bytearray(self.stride * self.max)

    def codec(self, names: Sequence[str]) -> Codec:
        """Return a codec for some fields."""
        return Codec(self.layout, self.stride, names)

    def read(self, index: int, count: int = 1) -> bytes:
        """Return elements; there must be as many."""
        assert index + count <= self.max
        return bytes(self.raw[index * self.stride : (index + count) * self.stride])

    def load(self, index: int) -> int:
        """Return an element of eight bytes."""
        return int.from_bytes(self.read(index), sys.byteorder)

    def put(self, index: int, raw: bytes) -> None:
        """Write an element."""
        self.raw[index * self.stride : (index + 1) * self.stride] = raw


class Table:
    """The maps that Connections opens, to be written by a test."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def open(self, path: str, *, write: bool) -> Array:
        """Return an array in a pin's place."""
        return self.arrays.setdefault(Path(path).name, Array(path, write=write))

    def put(self, number: int, flags: Life, age: int = 0) -> None:
        """Write a record whose ends have its number in their ports."""
        life = ((NOW - age) & 0xFFFFFFFF) << 32 | flags
        ends = [part for n in range(4) for part in (bytes((10, n, 0, 1)), number + n)]
        raw = self.arrays["connections"].codec(NAMES).pack(life, *ends, number + 9)
        self.arrays["connections"].put(number, raw)

    def set(self, timeouts: dict[str, int]) -> None:
        """Write timeouts."""
        for name, value in timeouts.items():
            raw = value.to_bytes(8, sys.byteorder)
            self.arrays["settings"].put(SETTINGS.index(name), raw)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """Maps out of bytes."""
    made = Table()
    monkeypatch.setattr(connections, "ArrayMap", made.open)
    return made


@pytest.fixture
def found(table: Table) -> Connections:
    """What user space sees of them."""
    made = Connections(Path("table"), Path("maps"))
    table.set(TIMEOUTS)
    return made


STATES = [
    (OPEN, "tcp_opening"),
    (OPEN | Life.REPLIED, "tcp_opening"),
    (ESTABLISHED, "tcp_established"),
    (ESTABLISHED | Life.FIN_CLIENT, "tcp_close_wait"),
    (ESTABLISHED | Life.FIN_BACKEND, "tcp_close_wait"),
    (ESTABLISHED | Life.FIN_CLIENT | Life.FIN_BACKEND, "tcp_closed"),
    (ESTABLISHED | Life.RESET, "tcp_closed"),
    (ESTABLISHED | Life.FIN_CLIENT | Life.RESET, "tcp_closed"),
    (OPEN | Life.RESET, "tcp_closed"),
    (OPEN | Life.CLASH, "tcp_opening"),
    (ESTABLISHED | Life.SOURCE_WANTED | Life.SOURCE_READY, "tcp_established"),
    (OPEN | Life.UDP, "udp"),
    (OPEN | Life.UDP | Life.PASS, "udp"),
    (OPEN | Life.UDP | Life.REPLIED, "udp"),
    (ESTABLISHED | Life.UDP, "udp_stream"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "name"), STATES, ids=str)
def test_a_state_has_its_own_timeout(
    table: Table, found: Connections, flags: Life, name: str
) -> None:
    """To the tick: it lives as long as its state's timeout says, and no longer."""
    assert timeout_setting(flags) == name
    table.put(1, flags, TIMEOUTS[name])
    assert found.used(NOW) == 1
    table.put(1, flags, TIMEOUTS[name] + 1)
    assert found.used(NOW) == 0


def test_what_is_not_complete_is_none(table: Table, found: Connections) -> None:
    """A record that was taken and is being written counts only when it is ready."""
    table.put(1, Life.CLAIMED)
    table.put(2, Life(0))
    assert found.used(NOW) == 0
    assert set(found.hashes(0, NOW)) == set()


@pytest.mark.parametrize("age", [-1, -1000, -(1 << 31), NOW + 1])
def test_a_time_to_come_is_no_age(table: Table, found: Connections, age: int) -> None:
    """A packet that comes while the table is read is later than `now`; ticks begin anew at 2^32."""
    table.set({"tcp_established": NOW + 1})
    table.put(1, ESTABLISHED, age)
    assert found.used(NOW) == 1


def test_nothing_is_shorter_than_a_refresh(table: Table, found: Connections) -> None:
    """Before the settings are written, what was seen within a second lives."""
    table.set(dict.fromkeys(TIMEOUTS, 0))
    table.put(1, ESTABLISHED, REFRESH_TICKS)
    table.put(2, ESTABLISHED, REFRESH_TICKS + 1)
    assert found.used(NOW) == 1


def test_changed_timeouts_hold_at_once(table: Table, found: Connections) -> None:
    """They are read each time: an agent with another configuration writes them anew."""
    table.put(1, ESTABLISHED, 1000)
    assert found.used(NOW) == 0
    table.set({"tcp_established": 1000})
    assert found.used(NOW) == 1


def test_every_record_is_looked_at_once(table: Table, found: Connections) -> None:
    """Slices cover the table, the last one a short one; record 0 is nobody's."""
    assert found.max == RECORDS - 1
    numbers = [1, SLICE - 1, SLICE, 2 * SLICE + 5, RECORDS - 1]
    for number in numbers:
        table.put(number, ESTABLISHED)
    assert list(found.slices) == [0, SLICE, 2 * SLICE, 3 * SLICE]
    assert found.used(NOW) == len(numbers)
    given = [each for start in found.slices for each in found.hashes(start, NOW)]
    expected = [
        endpoint_hash(bytes((10, end, 0, 1)), number + end) for number in numbers for end in (1, 2)
    ]
    assert given == expected


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (OPEN, {"frontend", "backend"}),
        (ESTABLISHED | Life.FIN_CLIENT, {"frontend", "backend"}),
        (OPEN | Life.SOURCE_WANTED, {"frontend", "backend", "client", "source"}),
        (OPEN | Life.SOURCE_WANTED | Life.SOURCE_READY, set(ENDS)),
        (OPEN | Life.UDP | Life.PASS, set()),
    ],
    ids=["plain", "half-closed", "source-wanted", "source-ready", "pass"],
)
def test_the_marks_are_those_of_the_packets_ends(
    table: Table, found: Connections, flags: Life, ends: set[str]
) -> None:
    """As ends_mark() in C: a client is marked only where its packets are translated at egress."""
    number = 7
    table.put(number, flags)
    ports = {"client": number + 9, "frontend": number + 1, "backend": number + 2}
    ports["source"] = number + 3
    expected = {endpoint_hash(bytes((10, ENDS.index(end), 0, 1)), ports[end]) for end in ends}
    assert set(found.hashes(0, NOW)) == expected
