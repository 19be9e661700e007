# SPDX-License-Identifier: Apache-2.0
"""Marks are swept where something has begun since the last time, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyproxy.agent import sweeper
from pyproxy.agent.sweeper import Sweeper
from tests.lab.waiting import wait_for

SOON_S, NEVER_S, PATIENCE_S = 0.001, 3600.0, 10.0
FAMILIES = ("IPv4", "IPv6")


class Node:
    """The counters of two families, and the sweeps that were asked for."""

    def __init__(self) -> None:
        self.counts = {name: {"packet_open": 0, "connect": 0} for name in FAMILIES}
        self.swept: list[str] = []
        self.rounds = 0
        self.in_sweep: Callable[[Callable[[], bool]], None] = lambda _: None

    def counters(self, pins: Any) -> dict[str, int]:
        """Return a family's counters as they are now."""
        self.rounds += pins.name == FAMILIES[-1]
        return dict(self.counts[pins.name])

    def sweep(self, needed: str, marks: str, pause: Callable[[], bool]) -> None:
        """Note what is swept."""
        self.swept.append(f"{needed} {marks}")
        self.in_sweep(pause)

    def loaded(self) -> list[Any]:
        """Return both families as an agent has them."""
        return [
            SimpleNamespace(
                pins=SimpleNamespace(name=name, shared=Path("shared")),
                datapath=SimpleNamespace(marks="marks"),
                connections=name,
            )
            for name in FAMILIES
        ]

    def another_round(self) -> list[str]:
        """Wait until the counters were asked for twice more; return what was swept meanwhile."""
        # the first of the rounds may have begun before a test changed the counters
        before = len(self.swept)
        rounds = self.rounds
        wait_for(lambda: self.rounds >= rounds + 3, PATIENCE_S, "another round")
        return self.swept[before:]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node without a kernel."""
    made = Node()
    monkeypatch.setattr(sweeper, "counters", made.counters)
    monkeypatch.setattr(sweeper, "sweep", made.sweep)
    monkeypatch.setattr(sweeper, "of_connections", lambda connections: connections)
    monkeypatch.setattr(sweeper, "of_sockets", str)
    monkeypatch.setattr(sweeper, "ArrayMap", lambda path, **_: Path(path).name)
    return made


ALL = ["IPv4 marks", "IPv6 marks", "shared socket_marks"]


@pytest.fixture
def running(node: Node) -> Iterator[Sweeper]:
    """A sweeper that goes round all the time, after its first round."""
    made = Sweeper(node.loaded(), SOON_S)
    made.start()
    wait_for(lambda: len(node.swept) >= len(ALL), PATIENCE_S, "the first round")
    yield made
    made.stop()


@pytest.mark.usefixtures("running")
def test_everything_is_swept_the_first_time(node: Node) -> None:
    """An earlier agent may have left marks; after that nothing is while nothing begins."""
    assert node.another_round() == []
    assert node.swept == ALL


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("family", "counter", "expected"),
    [
        ("IPv4", "packet_open", ["IPv4 marks"]),
        ("IPv6", "packet_open", ["IPv6 marks"]),
        ("IPv4", "connect", ["shared socket_marks"]),
        ("IPv6", "connect", ["shared socket_marks"]),
    ],
)
def test_only_what_has_begun_is_swept(
    node: Node, family: str, counter: str, expected: list[str]
) -> None:
    """Once for each time that there were new ones: marks are only ever set by what begins."""
    for _ in range(2):
        node.counts[family][counter] += 1
        assert node.another_round() == expected


@pytest.mark.usefixtures("running")
def test_what_begins_during_a_sweep_is_swept_the_next_time(node: Node) -> None:
    """The counters are those of before the sweep, so that nothing in between is missed."""

    def begin(_: Callable[[], bool]) -> None:
        node.in_sweep = lambda _: None
        node.counts["IPv4"]["packet_open"] += 1

    node.in_sweep = begin
    node.counts["IPv4"]["packet_open"] += 1
    assert node.another_round() == ["IPv4 marks"] * 2


def test_it_waits_before_the_first_time(node: Node) -> None:
    """An agent that has just begun has better things to do; stop() does not wait for it."""
    made = Sweeper(node.loaded(), NEVER_S)
    made.start()
    made.stop()
    assert (node.rounds, node.swept) == (0, [])


def test_it_ends_in_the_middle_of_a_sweep(node: Node) -> None:
    """A pause says so, and no other sweep goes to its end."""
    begun, paused = threading.Event(), list[bool]()

    def long(pause: Callable[[], bool]) -> None:
        begun.set()
        while not pause():
            paused.append(False)
        paused.append(True)

    node.in_sweep = long
    made = Sweeper(node.loaded(), SOON_S)
    made.start()
    assert begun.wait(PATIENCE_S)
    made.stop()
    # it does not go through the rest either, slice by slice
    assert paused.count(True) == len(node.swept)
