# SPDX-License-Identifier: Apache-2.0
"""state.json survives the way there and back, and broken ones are nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.agent import report
from pyproxy.agent.problems import malformed


def state() -> report.State:
    """Return a state with everything in it."""
    return report.State(
        pid=7, version="1", node="node1", cgroup_root="/sys/fs/cgroup", devices=["eth*"],
        synced=True, last_sync=1.5, last_sync_seconds=0.001, services=1, endpoints=2, refused=3,
        malformed=4, problems=[malformed("a.yaml", "no YAML")],
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Problems included; nothing else is left in the run-dir."""
    report.write(tmp_path, state())
    assert report.read(tmp_path) == state()
    assert [path.name for path in tmp_path.iterdir()] == [report.STATE]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"problems": [1]}', '{"problems": []}'])
def test_a_broken_state_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, status goes on without it."""
    (tmp_path / report.STATE).write_text(text, encoding="utf-8")
    assert report.read(tmp_path) is None


def test_a_run_dir_that_is_gone_costs_only_the_report(tmp_path: Path) -> None:
    """The agent does not end for it."""
    report.write(tmp_path / "gone", state())
    assert report.read(tmp_path / "gone") is None
