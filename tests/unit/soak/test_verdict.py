# SPDX-License-Identifier: Apache-2.0
"""A soak is good if nothing is wrong with it, and each thing that is wrong is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.changes import AFTERMATH_S, Lives
from tests.soak.report import print_report, write_json
from tests.soak.sampling import Sample
from tests.soak.verdict import Found, Result, complaints, is_over, table_bound

SECONDS, RATE = 60.0, 200.0
TABLE, NAT, SLOTS, MEMBERS = (
    f"node1 IPv4 {name}" for name in ("connections", "nat", "slots", "members")
)


def sample(at: float) -> Sample:
    """Return a sample of a node on which all is flat."""
    used = {TABLE: 5000, NAT: int(1000 * at), SLOTS: 50, MEMBERS: 40}
    return Sample(at, used, dict.fromkeys(used, 65_535), {"node1": 36.0})


def good() -> Result:
    """Return a soak with which nothing is wrong."""
    enough = int(RATE * SECONDS)
    sure = Found("pod", True, enough, stayed=enough - 9, changing=9)
    sure.bytes, sure.datagrams = 30_000_000, 1_800
    dying = Found("dying", False, enough, stayed=enough - 9, changing=5)
    dying.excused = {"ECONNREFUSED at connect": 4}
    return Result(
        seconds=SECONDS,
        wanted_seconds=SECONDS,
        rate=RATE,
        seed=1,
        paths=[sure, dying],
        changes=600,
        wanted_changes=600,
        applied={"node1": 550.0},
        deaths=20,
        samples=[sample(float(at)) for at in range(0, 60, 5)],
        bounds={TABLE: 6000.0},
        rest=(sample(0), sample(60)),
    )


def last_quarter(result: Result, change: Callable[[Sample], None]) -> None:
    """Change the samples of the last quarter of the time."""
    for each in result.samples:
        if each.at >= 45:
            change(each)


def test_a_good_soak_has_no_complaints() -> None:
    """Failures that had a reason, and a map that keeps what is over, are well."""
    assert complaints(good()) == []


def test_a_slow_machine_may_take_longer_for_the_same() -> None:
    """What has to happen is counted for the wanted time, however long it took."""
    result = good()
    result.seconds = 2 * SECONDS
    result.samples = [sample(float(at)) for at in range(0, 120, 5)]
    assert complaints(result) == []


@pytest.mark.parametrize(
    ("seconds", "connections", "over"),
    [
        (SECONDS - 0.1, 12_000, False),
        (SECONDS, 9_000, True),
        (SECONDS, 8_999, False),
        (SECONDS + 29.9, 8_999, False),
        (SECONDS + 30, 8_999, True),
    ],
)
def test_a_soak_waits_for_its_traffic_within_bounds(
    seconds: float, connections: int, over: bool
) -> None:
    """It lasts as long as was wanted, and longer only while something has not happened enough."""
    result = good()
    result.seconds, result.paths[0].connections = seconds, connections
    assert is_over(result, patience=30.0) is over


def _breaks() -> dict[str, Callable[[Result], object]]:
    """Return what may go wrong, by a part of the sentence that says so."""
    return {
        "2 connections failed: TIMEOUT at connect": lambda r: r.paths[0].failures.update(
            {"TIMEOUT at connect": 2}
        ),
        "dying: 1 connections failed": lambda r: r.paths[1].failures.update({"EOF at recv": 1}),
        "client, which is no endpoint": lambda r: r.paths[0].foreign.update(client=1),
        "1 of 1800 datagrams were lost": lambda r: setattr(r.paths[0], "lost", 1),
        "pod: after 8 bytes: reset": lambda r: r.paths[0].kept.append("after 8 bytes: reset"),
        "this was no soak": lambda r: setattr(r.paths[1], "connections", 8900),
        "14 datagrams a second of 30": lambda r: setattr(r.paths[0], "datagrams", 860),
        "167 bytes a second": lambda r: setattr(r.paths[0], "bytes", 10_000),
        "some endpoints had no connection": lambda r: setattr(r.paths[0], "changing", 0),
        "only 449 changes of 600": lambda r: setattr(r, "changes", 449),
        "node1: 10 of 600 changes were applied": lambda r: r.applied.update(node1=10.0),
        "6001 entries, and there should be 6000": lambda r: r.samples[4].used.update({TABLE: 6001}),
        "slots has grown from 50 to 73": lambda r: last_quarter(
            r, lambda s: s.used.update({SLOTS: 73})
        ),
        "grown from 36.0 to 40.1 MB": lambda r: last_quarter(
            r, lambda s: s.rss_mb.update(node1=40.1)
        ),
        "too short": lambda r: r.samples.clear(),
        "members: 40 entries at the start, 41": lambda r: r.rest[1].used.update({MEMBERS: 41}),
        "node1: leads nowhere": lambda r: r.problems.append("node1: leads nowhere"),
    }


@pytest.mark.parametrize("sentence", _breaks())
def test_each_wrong_is_said(sentence: str) -> None:
    """One thing is wrong, and that alone is said."""
    result = good()
    _breaks()[sentence](result)
    (said,) = complaints(result)
    assert sentence in said


def test_a_table_holds_ten_seconds_and_a_bit() -> None:
    """200 a second on three paths, half of them in each family."""
    assert table_bound(3, 200) == 3 * (100 * 14 + 3)


def test_an_agent_that_is_warm_may_grow_less() -> None:
    """In ten minutes its memory has to be what it was, in one it has to begin."""
    result = good()
    result.seconds = 600.0
    result.paths, result.rate = [], 0.0
    result.samples = [sample(float(at)) for at in range(0, 600, 50)]
    for each in result.samples[-2:]:
        each.rss_mb.update(node1=39.0)
    assert complaints(result) == ["node1: the agent has grown from 36.0 to 38.0 MB"]


def test_only_connections_around_a_death_are_excused() -> None:
    """Those that were open when it died, and those that began soon after."""
    lives = Lives.__new__(Lives)
    lives.deaths = [10.0, 20.0]
    assert lives.excuses(9.9, 10.1)
    assert lives.excuses(20.0 + AFTERMATH_S, 21.0)
    assert not lives.excuses(9.8, 9.9)
    assert not lives.excuses(20.1 + AFTERMATH_S, 21.0)


@pytest.mark.parametrize("wrong", [[], ["pod: 2 connections failed: EOF at recv"]])
def test_all_that_was_found_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    """The last line is the verdict, and the file can be read."""
    result = good()
    print_report(result, wrong)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Failed: 1" if wrong else "Good: 24000 connections in 60 s")
    write_json(tmp_path / "soak.json", result, wrong)
    body = json.loads((tmp_path / "soak.json").read_text())
    assert (body["schema"], body["good"]) == ("pyproxy.soak/1", not wrong)
    assert body["paths"][1]["excused"] == {"ECONNREFUSED at connect": 4}
    assert body["samples"][1]["used"][TABLE] == 5000
