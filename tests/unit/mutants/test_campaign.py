# SPDX-License-Identifier: Apache-2.0
"""The trials of mutants, in trees that only pretend to run tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.mutants.campaign import Campaign, Place
from tests.mutants.mutants import Mutant, mutants_of
from tests.mutants.order import Order
from tests.mutants.trial import BrokenTrialError, Outcome, Verdict

TEXT = "int f(int a, int b)\n{\n\tif (a == b)\n\t\treturn 1;\n\treturn a < b;\n}\n"
SURVIVED = Verdict(Outcome.SURVIVED)
KILLED = Verdict(Outcome.KILLED, "test_b.py::test_it")


class FakeTree:
    """A tree whose verdict is a function of the C file's text; keeps what it was asked."""

    def __init__(self, directory: Path, verdict: Callable[[str], Verdict]) -> None:
        self.bpf = directory
        self.bpf.mkdir()
        (self.bpf / "x.c").write_text(TEXT)
        self._verdict = verdict
        self.runs: list[tuple[list[str], float]] = []
        self.stopped = threading.Event()

    def tests(self) -> list[str]:
        """Two test files."""
        return ["test_a.py", "test_b.py"]

    def check(self) -> None:
        """Find nothing wrong."""

    def run(self, tests: Sequence[str], limit_s: float) -> Verdict:
        """Judge the text."""
        self.runs.append((list(tests), limit_s))
        return self._verdict((self.bpf / "x.c").read_text())

    def stop(self) -> None:
        """Let a run that waits end."""
        self.stopped.set()


def campaign(*trees: FakeTree) -> Campaign:
    """Return a campaign in which every look at the clock takes a second."""
    places: Sequence[Place] = trees
    ticks = iter(range(1000))
    return Campaign(places, Order({}, {}), lambda: float(next(ticks)))


def mutants() -> list[Mutant]:
    """Return the three mutants of TEXT."""
    return mutants_of(TEXT, "x.c")


def test_every_mutant_is_tried_alone(tmp_path: Path) -> None:
    """Each trial sees one change, and the original is back afterwards."""
    seen: list[str] = []

    def verdict(text: str) -> Verdict:
        seen.append(text)
        return SURVIVED if "a <= b" in text else KILLED

    tree = FakeTree(tmp_path / "0", verdict)
    trials = list(campaign(tree).results(mutants()))
    assert seen == [mutant.apply(TEXT) for mutant in mutants()]
    assert [trial.mutant for trial in trials] == mutants()
    assert {(t.mutant.new, t.verdict.outcome, t.seconds) for t in trials} == {
        ("!=", Outcome.KILLED, 1.0),
        (">=", Outcome.KILLED, 1.0),
        ("<=", Outcome.SURVIVED, 1.0),
    }
    assert (tree.bpf / "x.c").read_text() == TEXT


def test_the_order_is_learnt(tmp_path: Path) -> None:
    """The test file that killed the first mutant is tried first on the next."""
    tree = FakeTree(tmp_path / "0", lambda _: KILLED)
    list(campaign(tree).results(mutants()))
    assert [tests[0] for tests, _ in tree.runs] == ["test_a.py", "test_b.py", "test_b.py"]


def test_the_limit_follows_from_the_tests_without_a_mutant(tmp_path: Path) -> None:
    """A trial may take three times as long as the tests do, and a minute."""
    tree = FakeTree(tmp_path / "0", lambda _: SURVIVED)
    trials = campaign(tree)
    assert trials.begin() == 1
    list(trials.results(mutants()))
    assert [limit for _, limit in tree.runs] == [900, 63, 63, 63]


def test_tests_that_fail_anyway_judge_nothing(tmp_path: Path) -> None:
    """With a test that fails on the original, every mutant would look killed."""
    with pytest.raises(BrokenTrialError, match="test_it fails without any mutant"):
        campaign(FakeTree(tmp_path / "0", lambda _: KILLED)).begin()


def test_a_broken_trial_ends_the_campaign(tmp_path: Path) -> None:
    """What cannot be judged is no result; the source is mended all the same."""

    def verdict(_: str) -> Verdict:
        raise BrokenTrialError("pytest ended with 3")

    tree = FakeTree(tmp_path / "0", verdict)
    with pytest.raises(BrokenTrialError, match="ended with 3"):
        list(campaign(tree).results(mutants()))
    assert (tree.bpf / "x.c").read_text() == TEXT


def test_two_trees_work_at_once(tmp_path: Path) -> None:
    """Two trials meet, and every mutant is tried once."""
    meeting = threading.Barrier(2)

    def verdict(_: str) -> Verdict:
        meeting.wait(10)
        return KILLED

    trees = [FakeTree(tmp_path / name, verdict) for name in ("0", "1")]
    several = [*mutants(), mutants()[0]]
    trials = list(campaign(*trees).results(several))
    assert sorted(trial.mutant for trial in trials) == sorted(several)


def test_what_still_runs_is_stopped_at_the_end(tmp_path: Path) -> None:
    """Closing the results ends a trial that would go on."""
    slow = FakeTree(tmp_path / "1", lambda _: SURVIVED if slow.stopped.wait(10) else KILLED)
    quick = FakeTree(tmp_path / "0", lambda _: KILLED)
    with closing(campaign(quick, slow).results(mutants())) as results:
        assert next(results).verdict is KILLED
    assert slow.stopped.is_set()


def test_only_the_first_test_files_are_tried(tmp_path: Path) -> None:
    """A survivor costs as much as they do, and not as all tests; the tests begin whole."""
    tree = FakeTree(tmp_path / "0", lambda _: SURVIVED)
    places: Sequence[Place] = [tree]
    few = Campaign(places, Order({}, {}), most=1)
    few.begin()
    assert len(list(few.results(mutants()))) == len(mutants())
    assert [len(tests) for tests, _ in tree.runs] == [2, 1, 1, 1]
