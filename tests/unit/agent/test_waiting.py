# SPDX-License-Identifier: Apache-2.0
"""What an agent does that waits to take over, and what it says of itself meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pyproxy.agent import kernel, waiting
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.kernel import Ahead
from pyproxy.agent.messages import Messages, Prepared, Stop
from pyproxy.agent.waiting import Waiting
from pyproxy.errors import KernelError
from pyproxy.kernel import features, load
from pyproxy.kernel.features import Features
from pyproxy.kernel.lock import Lock, Turn, holder
from pyproxy.kernel.lock import waiting as who_waits
from pyproxy.kube.events import Synced
from pyproxy.plan.options import Options
from tests.lab.waiting import wait_for
from tests.unit.agent.test_reconfigure import CONFIG


class FakeAhead:
    """Stands for programs that are loaded when a test says so."""

    made: ClassVar[list[FakeAhead]] = []

    def __init__(self, _config: object, done: Callable[[Prepared], None]) -> None:
        self.done = done
        self.ended: list[bool] = []
        FakeAhead.made.append(self)

    def stop(self, *, forget: bool) -> None:
        """Note how it ended."""
        self.ended.append(forget)


class Waiter:
    """A waiting agent in a thread of its own; `other` is the lock of the one that runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.other = Lock(folder, folder / "bpf")
        self.messages = Messages()
        self.started: list[bool] = []
        self.outcome: list[Lock | Stop] = []
        config = CONFIG._replace(run_dir=folder, bpffs_root=folder / "bpf")
        self.waiting = Waiting(
            config, self.messages, Inbox(Options("n1")), lambda: self.started.append(True)
        )
        self.thread = threading.Thread(target=lambda: self.outcome.append(self.waiting.run()))
        self.thread.start()

    @property
    def ahead(self) -> FakeAhead:
        """What loads its programs."""
        wait_for(lambda: FakeAhead.made, 10, "programs to be loaded")
        return FakeAhead.made[0]

    def await_lacking(self, what: str) -> None:
        """Wait until exactly this is missing, by its own word and by what others can read."""
        wait_for(lambda: self.waiting.lacks() == what, 10, f"{what!r} to be missing")

        def is_noted() -> bool:
            word = who_waits(self.folder)
            return word is not None and word.lacks == what

        wait_for(is_noted, 10, f"{what!r} to be noted")

    def end(self) -> Lock | Stop:
        """Return what came of it."""
        self.thread.join(10)
        return self.outcome[0]


@pytest.fixture
def waiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    """An agent that waits; nothing of it is left."""
    FakeAhead.made.clear()
    monkeypatch.setattr(waiting, "Ahead", FakeAhead)
    made = Waiter(tmp_path)
    yield made
    made.messages.put(Stop())
    made.other.release()
    made.thread.join(10)


def test_it_is_ready_with_programs_and_lists_and_takes_over(waiter: Waiter) -> None:
    """The lock is its own when the other one ends, and what it has loaded stays."""
    waiter.await_lacking("its programs")
    waiter.ahead.done(Prepared(""))
    waiter.await_lacking("its first lists")
    waiter.messages.put(Synced())
    waiter.await_lacking("")
    assert waiter.thread.is_alive()
    waiter.other.release()
    lock = waiter.end()
    assert isinstance(lock, Lock)
    assert holder(waiter.folder) is not None
    assert (waiter.ahead.ended, waiter.started) == ([False], [True])
    assert who_waits(waiter.folder) is None
    lock.release()


def test_what_is_being_loaded_is_waited_for(waiter: Waiter) -> None:
    """Else it would have to begin again."""
    waiter.await_lacking("its programs")
    waiter.other.release()
    waiter.thread.join(0.2)
    assert waiter.thread.is_alive()
    waiter.ahead.done(Prepared(""))
    lock = waiter.end()
    assert isinstance(lock, Lock)
    lock.release()


def test_programs_that_cannot_be_loaded_keep_it_from_being_ready(waiter: Waiter) -> None:
    """It says why; they may be later on, and if the other agent ends, it is needed all the same."""
    waiter.messages.put(Synced())
    waiter.ahead.done(Prepared("no memory"))
    waiter.await_lacking("its programs: no memory")
    waiter.ahead.done(Prepared(""))
    waiter.await_lacking("")
    waiter.ahead.done(Prepared("no memory"))
    waiter.other.release()
    lock = waiter.end()
    assert isinstance(lock, Lock)
    lock.release()


def test_who_is_told_to_end_takes_its_programs_along(waiter: Waiter) -> None:
    """The one that runs has the lock all the time."""
    waiter.await_lacking("its programs")
    waiter.messages.put(Stop("a reason"))
    assert waiter.end() == Stop("a reason")
    assert waiter.ahead.ended == [True]


def test_of_two_one_prepares(waiter: Waiter) -> None:
    """The other one would meet it in the same directories."""
    waiter.await_lacking("its programs")
    messages, ends = Messages(), list[Lock | Stop]()
    config = CONFIG._replace(run_dir=waiter.folder, bpffs_root=waiter.folder / "bpf")
    second = Waiting(config, messages, Inbox(Options("n1")), lambda: None)
    thread = threading.Thread(target=lambda: ends.append(second.run()))
    thread.start()
    thread.join(0.1)
    assert len(FakeAhead.made) == 1
    assert "another agent waits" in second.lacks()
    waiter.messages.put(Stop())
    wait_for(lambda: len(FakeAhead.made) == 2, 10, "the second one's turn")
    messages.put(Stop())
    thread.join(10)
    assert ends == [Stop()]


def test_loading_ahead_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Until it succeeds, or is not wanted any more; nothing is left of one that is forgotten."""
    outcomes = iter([KernelError("no memory"), None])

    def finish(*_: object) -> str:
        error = next(outcomes)
        if error:
            raise error
        return ""

    monkeypatch.setattr(features, "probe", lambda: Features(True, True, True))
    monkeypatch.setattr(kernel, "AGAIN_S", 0.01)
    monkeypatch.setattr(load, "start", lambda _: None)
    monkeypatch.setattr(load, "finish", finish)
    said: list[str] = []
    config = CONFIG._replace(bpffs_root=tmp_path, cache_dir=tmp_path)
    ahead = Ahead(config, lambda each: said.append(each.failure))
    wait_for(lambda: len(said) == 2, 10, "a second try")
    assert said == ["no memory", ""]
    for each in ahead._requests:
        left = each.pins.ahead(each.build().digest)
        (left.with_name(f"{left.name}-unfinished")).mkdir(parents=True)
        left.mkdir()
    ahead.stop(forget=False)
    assert len(list(tmp_path.rglob("*-ahead"))) == len(ahead._requests)
    ahead.stop(forget=True)
    assert not list(tmp_path.rglob("*-ahead*"))


def test_a_place_that_is_left_can_be_had(tmp_path: Path) -> None:
    """By who comes next."""
    first = Turn(tmp_path)
    first.wait()
    first.release()
    second = Turn(tmp_path)
    second.wait()
    second.release()
