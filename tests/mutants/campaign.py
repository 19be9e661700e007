# SPDX-License-Identifier: Apache-2.0
"""Tries mutants one after the other, or several at a time, each in a tree of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.mutants.mutants import Mutant
from tests.mutants.order import Order
from tests.mutants.trial import BrokenTrialError, Outcome, Verdict

# the tests without a mutant; each later trial may take LIMIT_FACTOR as long and LIMIT_EXTRA_S
FIRST_LIMIT_S = 900
LIMIT_FACTOR = 3
LIMIT_EXTRA_S = 60


class Trial(NamedTuple):
    """A mutant, what became of it, and how long that took."""

    mutant: Mutant
    verdict: Verdict
    seconds: float


class Place(Protocol):
    """Where a mutant is tried: trial.Tree."""

    @property
    def bpf(self) -> Path:
        """The C sources to change."""
        ...

    def tests(self) -> list[str]:
        """Return the names of the test files."""
        ...

    def check(self) -> None:
        """Raise BrokenTrialError unless the tests would run against these sources."""
        ...

    def run(self, tests: Sequence[str], limit_s: float) -> Verdict:
        """Run the test files in this order until one fails, or the limit is over."""
        ...

    def stop(self) -> None:
        """End the run that another thread waits for."""
        ...


class Campaign:
    """The trials of mutants in trees, as many at once as there are trees.

    With `most` only so many test files are tried on each: what survives them may not survive all.
    """

    def __init__(
        self,
        trees: Sequence[Place],
        order: Order,
        clock: Callable[[], float] = time.monotonic,
        most: int | None = None,
    ) -> None:
        self._trees = trees
        self._most = most
        self._order = order
        self._clock = clock
        self._limit_s = float(FIRST_LIMIT_S)

    def begin(self) -> float:
        """Run all tests without a mutant; return the seconds they took.

        Raises BrokenTrialError if one fails: then a failure would say nothing.
        """
        for tree in self._trees:
            tree.check()
        started = self._clock()
        tree = self._trees[0]
        verdict = tree.run(self._order.of("", tree.tests()), self._limit_s)
        if verdict.outcome is not Outcome.SURVIVED:
            raise BrokenTrialError(
                f"{verdict.by} fails without any mutant", "mend that first: scripts/test datapath"
            )
        seconds = self._clock() - started
        self._limit_s = LIMIT_FACTOR * seconds + LIMIT_EXTRA_S
        return seconds

    def results(self, mutants: Sequence[Mutant]) -> Generator[Trial, None, None]:
        """Try all mutants; yield the results as they come. Closing it ends what runs."""
        waiting = iter(mutants)
        with ThreadPoolExecutor(len(self._trees)) as pool:
            running: dict[Future[Trial], Place] = {}
            try:
                for tree in self._trees:
                    self._next(pool, running, tree, waiting)
                while running:
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        tree = running.pop(done)
                        trial = done.result()
                        self._order.learn(trial.mutant.file, trial.verdict.file)
                        self._next(pool, running, tree, waiting)
                        yield trial
            finally:
                for tree in running.values():
                    tree.stop()

    def _next(
        self,
        pool: ThreadPoolExecutor,
        running: dict[Future[Trial], Place],
        tree: Place,
        waiting: Iterator[Mutant],
    ) -> None:
        mutant = next(waiting, None)
        if mutant is not None:
            tests = self._order.of(mutant.file, tree.tests())[: self._most]
            running[pool.submit(self._try, tree, mutant, tests)] = tree

    def _try(self, tree: Place, mutant: Mutant, tests: Sequence[str]) -> Trial:
        source = tree.bpf / mutant.file
        original = source.read_text(encoding="utf-8")
        started = self._clock()
        source.write_text(mutant.apply(original), encoding="utf-8")
        try:
            verdict = tree.run(tests, self._limit_s)
        finally:
            source.write_text(original, encoding="utf-8")
        return Trial(mutant, verdict, self._clock() - started)
