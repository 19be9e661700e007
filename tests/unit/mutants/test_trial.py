# SPDX-License-Identifier: Apache-2.0
"""Copies of a checkout, and what pytest's report says of a run there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.mutants import trial
from tests.mutants.trial import BrokenTrialError, Outcome, Tree, Verdict, judge, kill_marked

# plays pytest: hangs, and has a child that no signal to it reaches
HANGING = """#!/bin/sh
setsid sleep 600 &
: > started
wait
"""
LOOKING = """
def test_finds_nothing():
    assert "==" in open("bpf/types.h").read()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A copy of a small checkout, with the interpreter that runs this."""
    checkout = tmp_path / "checkout"
    files = {
        "bpf/types.h": "a == b",
        "tests/datapath/test_a.py": LOOKING,
        "tests/datapath/test_b.py": "",
        "tests/datapath/node.py": "",
    }
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    (checkout / ".venv").symlink_to(sys.prefix)
    return Tree.copy(checkout, list(files), tmp_path / "0", separated=())


def test_a_copy_has_its_own_sources(tree: Tree, tmp_path: Path) -> None:
    """What is changed in a copy stays there; its tests are those that run."""
    (tree.bpf / "types.h").write_text("a != b")
    assert (tmp_path / "checkout" / "bpf" / "types.h").read_text() == "a == b"
    assert tree.tests() == ["test_a.py", "test_b.py"]
    assert tree.run(["test_a.py"], 60) == Verdict(Outcome.KILLED, "test_a.py::test_finds_nothing")


def test_a_hang_is_a_kill_and_leaves_no_process(tmp_path: Path) -> None:
    """At the limit everything ends that the tests started, whatever it is a child of by then."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(HANGING)
    python.chmod(0o755)
    assert Tree(tmp_path, separated=()).run(["test_b.py"], 1).outcome is Outcome.HUNG
    assert (tmp_path / "started").exists()
    assert kill_marked(f"PYPROXY_MUTANT={tmp_path}") == []


def test_tests_of_another_checkout_are_refused(tree: Tree) -> None:
    """A tree without the package would run against the sources of the .venv's checkout."""
    with pytest.raises(BrokenTrialError, match="find the C sources"):
        tree.check()


def test_tests_that_cannot_run_say_nothing(tree: Tree) -> None:
    """A missing test file is no kill: pytest's own words are shown."""
    with pytest.raises(BrokenTrialError, match=r"ended with 4:(.|\n)*test_z\.py"):
        tree.run(["test_z.py"], 60)


def test_no_process_but_the_marked_is_killed() -> None:
    """The mark is the whole of an entry."""
    first = next(iter(os.environ.items()))
    assert kill_marked("=".join(first)[:-1] + "\x01") == []


def report(kind: str, message: str, text: str = "") -> str:
    """Return pytest's report of a run that one test's failure or error ended."""
    return f"""<?xml version="1.0"?><testsuites><testsuite>
        <testcase classname="a" file="tests/datapath/test_a.py" name="test_one" time="1"/>
        <testcase classname="b" file="tests/datapath/test_b.py" name="test_two[x]">
        <{kind} message="{message}">{text}</{kind}></testcase></testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("kind", "message", "text", "outcome"),
    [
        ("failure", "AssertionError: assert 1 == 2", "", Outcome.KILLED),
        ("error", "failed on teardown", "assert node.is_empty()", Outcome.KILLED),
        ("error", "failed on setup", "KernelError: the programs do not compile: x", "load"),
        ("error", "failed on setup", "KernelError: the kernel does not load connect", "load"),
        ("failure", "Failed: Timeout (&gt;45.0s) from pytest-timeout.", "", Outcome.HUNG),
    ],
)
def test_reports_are_judged(kind: str, message: str, text: str, outcome: Outcome | str) -> None:
    """Loading and time are told apart from tests that saw a difference."""
    expected = Outcome.UNLOADABLE if outcome == "load" else outcome
    assert judge(report(kind, message, text)) == Verdict(
        Outcome(expected), "test_b.py::test_two[x]"
    )


def test_the_file_of_a_verdict() -> None:
    """The order of test files learns from it."""
    assert Verdict(Outcome.KILLED, "test_b.py::test_two[a::b]").file == "test_b.py"


def test_a_report_without_failures_is_broken() -> None:
    """A kill always has a witness."""
    with pytest.raises(BrokenTrialError, match="names none"):
        judge(report("skipped", ""))


def test_the_words_of_the_loader_are_its_own() -> None:
    """The two sayings that tell loading apart stand in the loader's source."""
    root = Path(__file__).resolve().parents[3]
    kernel = root / "pyproxy" / "kernel"
    source = "".join((kernel / name).read_text() for name in ("compiler.py", "create.py"))
    assert [saying for saying in trial.UNLOADABLE if saying not in source] == []
