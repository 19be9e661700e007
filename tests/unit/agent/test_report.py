# SPDX-License-Identifier: Apache-2.0
"""state.json survives the way there and back, and broken ones are nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyproxy.agent import report
from pyproxy.agent.problems import malformed


def state() -> report.State:
    """Return a state with everything in it."""
    return report.State(
        pid=7, version="1", node="node1", cgroup_root="/sys/fs/cgroup", devices=["eth*"],
        synced=True, last_sync=1.5, last_sync_seconds=0.001, services=1, endpoints=2, refused=3,
        malformed=4, problems=[malformed("a.yaml", "no YAML")], pod_networks=["10.0.0.0/8"],
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Problems included; nothing else is left in the run-dir."""
    assert report.Reporter(tmp_path).write(state())
    assert report.read(tmp_path) == state()
    assert [path.name for path in tmp_path.iterdir()] == [report.STATE]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"problems": [1]}', '{"problems": []}'])
def test_a_broken_state_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, status goes on without it."""
    (tmp_path / report.STATE).write_text(text, encoding="utf-8")
    assert report.read(tmp_path) is None


def test_a_run_dir_that_is_gone_costs_only_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent does not end for it; it says so once, and again when it has been there since."""
    run_dir = tmp_path / "run"
    reporter = report.Reporter(run_dir)
    assert not reporter.write(state())
    assert not reporter.write(state())
    assert caplog.text.count("cannot be written: No such file or directory") == 1
    run_dir.mkdir()
    assert reporter.write(state())
    shutil.rmtree(run_dir)
    assert not reporter.write(state())
    assert caplog.text.count("cannot be written") == 2


def test_an_old_report_goes_when_no_new_one_can_be_written(tmp_path: Path) -> None:
    """An old one would be taken for the present state."""
    reporter = report.Reporter(tmp_path)
    reporter.write(state())
    (tmp_path / f"{report.STATE}.new").mkdir()
    (tmp_path / f"{report.STATE}.new" / "full").touch()
    assert not reporter.write(state())
    assert report.read(tmp_path) is None
