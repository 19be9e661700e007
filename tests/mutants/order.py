# SPDX-License-Identifier: Apache-2.0
"""In which order the test files are tried: first what is likely to notice, and quick."""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

TABLE = Path(__file__).with_name("order.toml")


class Order:
    """The order for each C file, which learns from what noticed earlier mutants of that file.

    `first` says for a C file which test files come first, `left_out` names those that never run
    the programs. Test files that there are no longer do no harm.
    """

    def __init__(self, first: Mapping[str, Sequence[str]], left_out: Mapping[str, str]) -> None:
        self._first = first
        self._left_out = left_out
        self._kills: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read the committed table."""
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(table["first"], table["left_out"])

    @property
    def named(self) -> set[str]:
        """All test files that the table names."""
        return {*self._left_out}.union(*self._first.values())

    def of(self, source: str, tests: Sequence[str]) -> list[str]:
        """Return the test files in the order for a C file."""
        first = list(self._first.get(source, ()))
        kills = self._kills[source]

        def key(test: str) -> tuple[int, int, str]:
            place = first.index(test) if test in first else len(first)
            return (-kills[test], place, test)

        return sorted((test for test in tests if test not in self._left_out), key=key)

    def learn(self, source: str, test: str) -> None:
        """Take note that a test file noticed a mutant of a C file."""
        self._kills[source][test] += 1
