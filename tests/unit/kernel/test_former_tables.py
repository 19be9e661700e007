# SPDX-License-Identifier: Apache-2.0
"""Which connection tables are former ones, and in what order they are looked into."""

from __future__ import annotations

import os
from pathlib import Path

from pyproxy.kernel.pins import Pins, put_away
from pyproxy.model import Family


def made(pins: Pins, *sizes: int) -> list[str]:
    """Make tables in this order and return the names of all there are, oldest first."""
    for age, size in enumerate(sizes):
        pins.mark_used(size)
        os.utime(pins.connections(size), (age, age))
    return names(pins)


def names(pins: Pins) -> list[str]:
    """Return the names of all tables, oldest first."""
    return [table.name for table in pins.connection_tables()]


def test_a_table_that_a_newer_one_has_replaced_is_set_aside(tmp_path: Path) -> None:
    """What is in it is how its connections were; a fresh one of this size is made."""
    pins = Pins(tmp_path, Family.IPV4)
    assert made(pins, 64, 128) == ["64", "128"]
    pins.set_aside(64)
    assert names(pins) == ["64-former-1", "128"]
    pins.set_aside(64)
    assert names(pins) == ["64-former-1", "128"]


def test_the_newest_table_goes_on(tmp_path: Path) -> None:
    """Whether there are former ones or not."""
    pins = Pins(tmp_path, Family.IPV4)
    made(pins, 64, 128)
    pins.set_aside(128)
    assert names(pins) == ["64", "128"]


def test_several_may_be_set_aside(tmp_path: Path) -> None:
    """Moves from one size to another and back, each killed in the midst of it."""
    pins = Pins(tmp_path, Family.IPV4)
    (pins.connections(64).with_name("64-former-1") / "used").mkdir(parents=True)
    os.utime(pins.connections(64).with_name("64-former-1"), (0, 0))
    made(pins, 64, 128)
    pins.set_aside(64)
    assert sorted(names(pins)) == ["128", "64-former-1", "64-former-2"]


def test_a_table_that_was_never_used_is_removed(tmp_path: Path) -> None:
    """Its agent ended before it attached anything: nothing replaces the one before."""
    pins = Pins(tmp_path, Family.IPV4)
    made(pins, 64)
    pins.connections(128).mkdir()
    pins.set_aside(64)
    assert names(pins) == ["64"]
    # one that is wanted is about to be used
    pins.connections(128).mkdir()
    pins.set_aside(128)
    assert sorted(names(pins)) == ["128", "64"]


def test_programs_that_may_be_attached_are_put_away(tmp_path: Path) -> None:
    """Their stages end with the pins beside them."""
    programs = tmp_path / "programs-1"
    put_away(programs)
    for _ in range(2):
        programs.mkdir()
        put_away(programs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "programs-1-replaced-1", "programs-1-replaced-2",
    ]  # fmt: skip
