# SPDX-License-Identifier: Apache-2.0
"""docs/parity.md: every row of kube-proxy's behaviour once, with tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "parity.md"
# How many rows the parts A1 to A21 have.
ROWS = (13, 9, 5, 8, 6, 6, 7, 8, 14, 5, 9, 7, 8, 6, 11, 5, 11, 11, 12, 13, 8)
STATES = {"done", "different", "open"}
_ROW = re.compile(r"\| (A\d+\.\d+) \| ([^|]+) \| (\w+) \| ([^|]+) \|")
_TEST = re.compile(r"`(tests/[^`]+)`(, )?")


class Row(NamedTuple):
    """A line of the table; `reason` is what it says besides its tests."""

    id: str
    what: str
    state: str
    reason: str
    tests: tuple[str, ...]


def read_rows(text: str) -> list[Row]:
    """Return the rows of a table; raises ValueError with the line that is none."""
    found = []
    for line in text.splitlines():
        if not line.startswith("| A"):
            continue
        match = _ROW.fullmatch(line)
        if not match:
            raise ValueError(f"this is no row of four cells: {line}")
        id_, what, state, rest = match.groups()
        tests = tuple(each[1] for each in _TEST.finditer(rest))
        found.append(Row(id_, what, state, _TEST.sub("", rest).strip(), tests))
    return found


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return a file's tests as pytest names them: test_x, or TestY::test_x."""
    if not path.is_file():
        return frozenset()
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _names(node.body, f"{prefix}{node.name}::")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield prefix + node.name


def complaint(row: Row) -> str:
    """Return what a row lacks, "" for nothing."""
    if row.state not in STATES:
        return f"{row.id}: its state is none of {sorted(STATES)}"
    if row.state == "done" and not row.tests:
        return f"{row.id}: done, and no test says so"
    if row.state != "done" and not row.reason.endswith("."):
        return f"{row.id}: {row.state}, and no sentence says why"
    for test in row.tests:
        file, _, name = test.partition("::")
        if name not in names_in(ROOT / file):
            return f"{row.id}: there is no {test}"
    return ""


ALL = read_rows(TABLE.read_text(encoding="utf-8"))


def test_every_row_stands_there_once() -> None:
    """From A1.1 to A21.8, in their order."""
    wanted = [f"A{part}.{n}" for part, rows in enumerate(ROWS, 1) for n in range(1, rows + 1)]
    assert [row.id for row in ALL] == wanted
    assert len(wanted) == 182


def test_every_row_says_why_and_which_tests_exist() -> None:
    """One that is done names a test, any other says in a sentence what is so; tests are there."""
    assert list(filter(None, map(complaint, ALL))) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (f"| A1.1 | x | done | `{Path(__file__).relative_to(ROOT)}::test_bad_rows` |", ""),
        ("| A1.1 | x | done | |", "no row"),
        ("| A1.1 | x | done | as ever. |", "no test"),
        ("| A1.1 | x | soon | as ever. |", "state"),
        ("| A1.1 | x | different | `tests/unit/test_parity.py::test_bad_rows` |", "no sentence"),
        ("| A1.1 | x | open | later. |", ""),
        ("| A1.1 | x | done | `tests/unit/test_parity.py::test_none` |", "there is no"),
        ("| A1.1 | x | done | `tests/unit/test_none.py::test_bad_rows` |", "there is no"),
        ("| A1.1 | x | done | `tests/unit/test_parity.py` |", "there is no"),
    ],
)
def test_bad_rows(line: str, wrong: str) -> None:
    """What is wrong with a row is found, and nothing with a good one."""
    try:
        (row,) = read_rows(line)
    except ValueError as error:
        assert wrong
        assert wrong in str(error)  # noqa: PT017 - a good row raises nothing
        return
    assert wrong in complaint(row)
    assert bool(wrong) is bool(complaint(row))
