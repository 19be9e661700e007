# SPDX-License-Identifier: Apache-2.0
"""What user space counts as a connection is what the programs take for one, and status shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyproxy.cli.status import TROUBLES, collect
from pyproxy.kernel import inspect
from pyproxy.kernel.connections import Connections, Life, timeout_setting
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import REFRESH_TICKS, now_ticks, ticks
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTimeouts, SocketTranslation
from tests.datapath.ends import SOURCE_PORTS, backend, client, frontend, plan
from tests.datapath.flowtable import ESTABLISHED, Key, Lead, begin_tick
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node

TCP, UDP = Protocol.TCP, Protocol.UDP
TIMEOUTS = ConnectionTimeouts(1, 2, 3, 4, 5, 6)  # each another one
RECENT_S = 60

FLAGS = st.sets(st.sampled_from(sorted(Life)), max_size=8).map(lambda chosen: Life(sum(chosen)))
# around the timeout, around what is not noted, and around where the difference turns over
BASES = st.sampled_from(["timeout", "refresh", "zero", "half"])
OFFSETS = st.integers(-2, 2)


class Told(NamedTuple):
    """A connection by each protocol, and what user space says of the table."""

    hooks: Hooks
    connections: Connections
    numbers: dict[Protocol, int]
    entries: dict[Key, Lead]


@pytest.fixture
def told(node: Node, family: Family, tmp_path: Path) -> Iterator[Told]:
    """One connection of each protocol, answered, with timeouts that are all different."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as hooks:
        hooks.path.configure(Options("here"), SocketTranslation.ALL, TIMEOUTS, SOURCE_PORTS)
        for protocol in (TCP, UDP):
            hooks.ingress(hooks.first(protocol, client(family), frontend(family)))
            hooks.egress(hooks.answer(protocol, backend(family), client(family)))
        numbers = {Protocol(each.proto): each.number for each in hooks.table.records()}
        loaded = node.loaded[family]
        found = Connections(loaded.connections, loaded.pins.maps)
        yield Told(hooks, found, numbers, hooks.table.entries())
        found.close()


def is_served(hooks: Hooks, protocol: Protocol) -> bool:
    """Return whether the programs find the connection: its backend's answer is translated."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    ran = hooks.egress(hooks.answer(protocol, b, c))
    return ran == passed(hooks.answer(protocol, f, c))


@given(FLAGS, BASES, OFFSETS)
@example(Life.READY | Life.CLAIMED, "timeout", 0)
@example(Life.READY | Life.CLAIMED, "timeout", 1)
@example(ESTABLISHED | Life.FIN_CLIENT | Life.FIN_BACKEND, "timeout", 1)
@example(ESTABLISHED | Life.FIN_BACKEND, "timeout", 0)
@example(ESTABLISHED | Life.RESET, "timeout", 1)
@example(Life.READY | Life.UDP, "timeout", 1)
@example(Life.READY | Life.UDP | Life.REPLIED, "timeout", 1)
@example(ESTABLISHED | Life.UDP, "timeout", 1)
@example(Life.READY, "half", 0)
@example(Life.READY, "half", -1)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_used_is_what_the_programs_find(told: Told, flags: Life, base: str, offset: int) -> None:
    """In every state and at every age: what is counted is translated, and the reverse."""
    hooks, protocol = told.hooks, UDP if flags & Life.UDP else TCP
    bases = {
        "timeout": hooks.timeout(timeout_setting(flags)),
        "refresh": REFRESH_TICKS,
        "zero": 0,
        "half": 1 << 31,
    }
    age = bases[base] + offset
    for each in told.numbers.values():
        hooks.table.set_life(each, Life(0), 0)
    # what led to a record that was free when its packet came has been deleted
    hooks.table.put(told.entries)
    number = told.numbers[protocol]
    # the whole table is read in longer than a tick: the programs are asked first
    now = begin_tick()
    hooks.table.set_life(number, flags, age)
    record = hooks.table.record(number)
    is_found = is_served(hooks, protocol)
    hooks.table.write(number, record)
    assert told.connections.used(now) == is_found


def test_status_shows_how_full_the_table_is(told: Told, tmp_path: Path) -> None:
    """Connections in use and how many there can be, by family."""
    name, root = f"{told.hooks.family.label} connections", told.hooks.node.bpffs / "pyproxy"

    def shown() -> tuple[int, int]:
        (found,) = [each for each in collect(root, tmp_path).maps if each.name == name]
        return found.used, found.max

    assert shown() == (2, 65_535)
    hooks = told.hooks
    hooks.table.age(told.numbers[TCP], hooks.timeout("tcp_opening") + 1)
    assert shown() == (1, 65_535)
    hooks.table.clear()
    assert shown() == (0, 65_535)


@pytest.fixture
def moments(node: Node, family: Family) -> Iterator[ArrayMap]:
    """When something last went wrong: never."""
    maps = {
        each: ArrayMap(str(loaded.pins.maps / "moments"), write=True)
        for each, loaded in node.loaded.items()
    }
    for found in maps.values():
        _forget(found)
    yield maps[family]
    for found in maps.values():
        _forget(found)
        found.close()


def _forget(moments: ArrayMap) -> None:
    for index in range(moments.max):
        moments.store(index, 0)


Problems = Callable[[], list[str]]


@pytest.fixture
def problems(node: Node, family: Family, tmp_path: Path) -> Problems:
    """Return what gives the troubles that status tells of, all of this family."""
    codes = {TROUBLES[each][0] for each in inspect.MOMENTS}

    def find() -> list[str]:
        status = collect(node.bpffs / "pyproxy", tmp_path)
        found = [each for each in status.problems if each.code in codes]
        assert all(each.message.startswith(family.label) for each in found)
        return [each.code for each in found]

    return find


@pytest.mark.parametrize("name", inspect.MOMENTS)
@pytest.mark.parametrize(
    ("age", "told"),
    # status takes a part of a second itself
    [(0, True), (ticks(RECENT_S - 5), True), (ticks(RECENT_S) + 1, False), (1 << 31, False)],
    ids=["now", "nearly-a-minute", "more", "long"],
)
def test_a_trouble_is_told_for_a_minute(
    problems: Problems, moments: ArrayMap, name: str, age: int, told: bool
) -> None:
    """It is among status's problems within 60 s, and not after; it and no other one."""
    assert problems() == []
    moments.store(inspect.MOMENTS.index(name), (now_ticks() - age) & 0xFFFFFFFF)
    assert problems() == ([TROUBLES[name][0]] if told else [])


def test_a_minute_is_a_minute(node: Node, family: Family, moments: ArrayMap) -> None:
    """To the tick."""
    pins = node.loaded[family].pins
    for late in (0, 1):
        moments.store(0, begin_tick() - ticks(RECENT_S) - late)
        assert len(inspect.troubles(pins, RECENT_S)) == 1 - late


def test_a_full_table_is_told(told: Told, moments: ArrayMap) -> None:
    """The programs note when it was, and only the trouble that there was."""
    hooks, family = told.hooks, told.hooks.family
    pins = hooks.node.loaded[family].pins
    number = told.numbers[TCP]
    # a time yet to come is no time ago: filling the table may take longer than a timeout
    hooks.table.set_life(number, ESTABLISHED, -(1 << 20))
    hooks.table.connections.write(1, hooks.table.connections.read(number) * told.connections.max)
    assert told.connections.used(now_ticks()) == told.connections.max
    assert inspect.troubles(pins, RECENT_S) == []
    before = now_ticks()
    with hooks.node.counting(family, table_full=1):
        hooks.ingress(hooks.first(TCP, client(family, 9), frontend(family)))
    assert inspect.troubles(pins, RECENT_S) == ["table_full"]
    (noted,) = memoryview(moments.read(inspect.MOMENTS.index("table_full"))).cast("Q")
    assert before <= noted <= now_ticks()
