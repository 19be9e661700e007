# SPDX-License-Identifier: Apache-2.0
"""scripts/test itself: its usage, and that it counts as failed whatever did not clearly pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TALLY = ROOT / "scripts/lib/tally.py"

PASSED = '<testcase classname="tests.unit.test_a" name="test_one" file="tests/unit/test_a.py"/>'
FAILED = PASSED.replace("/>", '><failure message="no"/></testcase>')
SKIPPED = PASSED.replace("/>", '><skipped message="why"/></testcase>').replace("one", "two[6]")


def report(folder: Path, layer: str, cases: str, status: int) -> None:
    """Write what pytest leaves of a layer: its report and its exit status."""
    (folder / f"{layer}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    (folder / f"{layer}.exit").write_text(f"{status}\n")


def tally(folder: Path, *arguments: str, skips: str = "") -> tuple[int, list[str]]:
    """Return exit status and lines of the count of the reports in a folder."""
    (folder / "skips.txt").write_text(skips)
    where = ["--results", str(folder), "--skips", str(folder / "skips.txt")]
    command = [sys.executable, str(TALLY), *where, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("cases", "exit_status", "last"),
    [
        pytest.param(PASSED, 0, "1 passed, 0 failed, 0 skipped", id="all well"),
        pytest.param(PASSED + FAILED, 1, "1 passed, 1 failed, 0 skipped", id="a test failed"),
        pytest.param("", 5, "0 passed, 1 failed, 0 skipped", id="no test ran"),
        pytest.param(PASSED, 3, "1 passed, 1 failed, 0 skipped", id="pytest broke"),
        pytest.param(PASSED, 1, "1 passed, 1 failed, 0 skipped", id="status without a failure"),
        pytest.param(PASSED + "<", 0, "0 passed, 1 failed, 0 skipped", id="half a report"),
        pytest.param(SKIPPED, 0, "0 passed, 1 failed, 0 skipped", id="a skip nobody reviewed"),
    ],
)
def test_only_tests_that_passed_are_well(
    tmp_path: Path, cases: str, exit_status: int, last: str
) -> None:
    """Whatever pytest left is counted, and all but passed tests gives exit status 1."""
    report(tmp_path, "unit", cases, exit_status)
    status, lines = tally(tmp_path, "unit")
    assert lines[-1] == last
    assert status == (0 if " 0 failed" in last else 1)


@pytest.mark.parametrize(
    ("skips", "last"),
    [
        ("unit tests/unit/test_a.py::test_two[6] the reason", "1 passed, 0 failed, 1 skipped"),
        ("* tests/unit/test_a.py::test_two the reason", "1 passed, 0 failed, 1 skipped"),
        ("e2e tests/unit/test_a.py::test_two the reason", "1 passed, 1 failed, 0 skipped"),
        ("unit tests/unit/test_a.py::test_two[4] the reason", "1 passed, 1 failed, 0 skipped"),
        ("unit tests/unit/test_a.py::test_two[6]", "1 passed, 2 failed, 0 skipped"),
    ],
)
def test_a_skip_needs_a_line_with_a_reason(tmp_path: Path, skips: str, last: str) -> None:
    """Only a line for this layer and test, with a reason, lets a skip be a skip."""
    report(tmp_path, "unit", PASSED + SKIPPED, 0)
    assert tally(tmp_path, "unit", skips=f"# comment\n\n{skips}\n")[1][-1] == last


def test_a_long_list_of_failures_is_cut(tmp_path: Path) -> None:
    """Many failures are counted in full, and shown in part: the end stays readable."""
    report(tmp_path, "unit", FAILED * 25, 1)
    lines = tally(tmp_path, "unit")[1]
    assert sum(line.startswith("FAILED [unit] ") for line in lines) == 20
    assert "... and 5 more in unit" in lines
    assert lines[-1] == "0 passed, 25 failed, 0 skipped"


@pytest.mark.parametrize("layer", ["unit", "kernels", "fresh"])
def test_a_layer_without_a_report_has_failed(tmp_path: Path, layer: str) -> None:
    """A layer that broke off before it could report is not forgotten."""
    status, lines = tally(tmp_path, layer)
    assert (status, lines[-1]) == (1, "0 passed, 1 failed, 0 skipped")


def test_what_was_expected_in_the_guest_must_have_run_there(tmp_path: Path) -> None:
    """A test collected here that the virtual machine did not run is a failure, by name."""
    report(tmp_path, "kernels", PASSED, 0)
    expected = ["tests/unit/test_a.py::test_one", "tests/unit/test_a.py::test_lost"]
    (tmp_path / "kernels.expected").write_text("\n".join(expected))
    status, lines = tally(tmp_path, "kernels")
    assert "FAILED [kernels] tests/unit/test_a.py::test_lost: did not run" in lines
    assert (status, lines[-1]) == (1, "1 passed, 1 failed, 0 skipped")


def test_checks_count_as_tests(tmp_path: Path) -> None:
    """Lint and other checks are counted with the tests, over all layers."""
    report(tmp_path, "unit", PASSED, 0)
    (tmp_path / "unit.checks").write_text("ruff check\tpassed\nmypy\tfailed\n")
    (tmp_path / "fresh.checks").write_text("fresh root: first demo\tpassed\n")
    status, lines = tally(tmp_path, "unit", "fresh")
    assert (status, lines[-1]) == (1, "3 passed, 1 failed, 0 skipped")


def test_a_selection_may_leave_a_layer_empty_but_not_all(tmp_path: Path) -> None:
    """With arguments for pytest a layer may have no test, if another has one."""
    report(tmp_path, "unit", PASSED, 0)
    report(tmp_path, "e2e", "", 5)
    assert tally(tmp_path, "--selected", "unit", "e2e")[0] == 0
    assert tally(tmp_path, "--selected", "e2e")[0] == 1


def test_a_slow_layer_is_pointed_out(tmp_path: Path) -> None:
    """A layer over its budget of time gives a warning, not a failure."""
    report(tmp_path, "unit", PASSED, 0)
    (tmp_path / "unit.seconds").write_text("10.1\n")
    status, lines = tally(tmp_path, "unit")
    assert status == 0
    assert "warning: unit took 10.1 s, the budget is 10 s" in lines


def test_layers_that_ran_at_once_took_the_time_of_both(tmp_path: Path) -> None:
    """What all took is the time until the last one had ended, not a sum."""
    for layer in ("e2e", "kernels"):
        report(tmp_path, layer, PASSED, 0)
        (tmp_path / f"{layer}.seconds").write_text("900.0\n")
    assert any("all layers took 1800.0 s" in line for line in tally(tmp_path, "e2e", "kernels")[1])
    (tmp_path / "all.seconds").write_text("950.0\n")
    lines = tally(tmp_path, "e2e", "kernels")[1]
    assert not [line for line in lines if "all layers" in line]


@pytest.mark.parametrize("arguments", [["units"], ["--quick"], ["unit", "-k", "x"]])
def test_wrong_usage_ends_with_the_usage(arguments: list[str]) -> None:
    """An unknown layer or option gives exit status 2 and the usage, and nothing is run."""
    command = [str(ROOT / "scripts/test"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: scripts/test [unit|datapath|e2e|kernels|fresh|image]" in done.stderr
