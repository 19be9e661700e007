# SPDX-License-Identifier: Apache-2.0
"""Everything is looked at once a period, a bit at a time, and what was harmed is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.agent import upkeep
from pyproxy.agent.upkeep import PinsGoneError, Upkeep
from pyproxy.errors import KernelError
from pyproxy.kernel.pins import Pins
from pyproxy.model import Family

PERIOD_S = 30.0
LOOKS = 4  # steps before the maps'


class Path4:
    """Stands for PacketPath: which settings are wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def mend(self) -> list[str]:
        """Return what was wrong, once."""
        found, self.wrong = self.wrong, []
        return found


class Loaded(NamedTuple):
    """What Upkeep needs of a loaded family."""

    pins: Pins
    digest: str
    path: Path4
    pinned: tuple[Path, ...]

    @property
    def programs(self) -> Path:
        """Where its programs are."""
        return self.pins.programs(self.digest)


class Kernel:
    """A node whose state a test can harm, with clocks that it sets."""

    def __init__(self, root: Path) -> None:
        pin = root / "pin"
        pin.touch()
        self.now, self.cpu = 1000.0, 0.0
        self.step_s = 0.0
        self.detached = self.unfilled = self.apart = 0
        self.error = ""
        self.audits = 0
        self.loaded = Loaded(Pins(root, Family.IPV4), "digest", Path4(), (pin,))
        self.made = Upkeep(
            root,
            {Family.IPV4: self.loaded},  # type: ignore[dict-item] # has what is used
            self,  # type: ignore[arg-type] # stands for Syncers
            PERIOD_S,
            clock=lambda: self.now,
            cpu_clock=lambda: self.cpu,
        )

    def attach(self, *_: object) -> int:
        """Stand for sockets.attach()."""
        if self.error:
            raise KernelError(self.error)
        found, self.detached = self.detached, 0
        return found

    def fill(self, _: object) -> int:
        """Stand for load.fill_stages()."""
        found, self.unfilled = self.unfilled, 0
        return found

    def join(self, _: object) -> int:
        """Stand for entries.join()."""
        found, self.apart = self.apart, 0
        return found

    def audit(self) -> Iterator[None]:
        """Stand for Syncers.audit(), of two steps."""
        for _ in range(2):
            self.audits += 1
            self.cpu += self.step_s
            yield

    def look(self) -> int:
        """Take all steps of one look; return how many there were."""
        steps = 0
        while not self.made.patience():
            self.made.step()
            steps += 1
        return steps


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A node where all is well, a period after the start."""
    made = Kernel(tmp_path)
    monkeypatch.setattr("pyproxy.kernel.sockets.attach", made.attach)
    monkeypatch.setattr("pyproxy.kernel.load.fill_stages", made.fill)
    monkeypatch.setattr(upkeep, "join", made.join)
    assert made.made.patience() == PERIOD_S
    made.now += PERIOD_S
    return made


def test_a_look_is_made_once_a_period(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """In steps, between which others have their turn; where all is well nothing is said."""
    assert kernel.look() == LOOKS + 2 + 1
    assert kernel.audits == 2
    assert kernel.made.patience() == PERIOD_S
    kernel.now += PERIOD_S - 1
    assert kernel.made.patience() == 1
    kernel.now += 1
    kernel.look()
    assert kernel.audits == 4
    assert caplog.messages == []


@pytest.mark.parametrize(("step_s", "patience"), [(0.1, PERIOD_S), (1.0, 200.0)])
def test_a_look_that_takes_long_is_made_less_often(
    kernel: Kernel, step_s: float, patience: float
) -> None:
    """So that it is never more than a small part of a CPU."""
    kernel.step_s = step_s
    kernel.look()
    assert kernel.made.patience() == pytest.approx(patience)


def test_what_was_harmed_is_told_once(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """By name, and not again when it was mended."""
    kernel.detached, kernel.unfilled, kernel.apart = 3, 2, 4
    kernel.loaded.path.wrong = ["policy", "netns"]
    kernel.look()
    assert caplog.messages == [
        "3 IPv4 socket programs were gone: attached again",
        "6 programs were gone from our program arrays: put back",
        "IPv4: settings were changed: policy, netns; written again",
    ]
    caplog.clear()
    kernel.now += PERIOD_S
    kernel.look()
    assert caplog.messages == []


def test_a_look_that_fails_does_not_keep_from_the_others(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, and tried again in the next period."""
    kernel.error = "no such cgroup"
    kernel.unfilled = 1
    kernel.look()
    assert len(caplog.messages) == 2
    assert "no such cgroup" in caplog.messages[0]
    assert kernel.audits == 2


def test_removed_pins_ask_for_a_new_start(kernel: Kernel) -> None:
    """One of them is named."""
    (pin,) = kernel.loaded.pinned
    pin.unlink()
    with pytest.raises(PinsGoneError, match=f"pins were removed: 1, {pin} among them"):
        kernel.look()
