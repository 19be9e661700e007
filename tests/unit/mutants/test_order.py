# SPDX-License-Identifier: Apache-2.0
"""The order of test files."""

from __future__ import annotations

from pathlib import Path

from tests.mutants.order import TABLE, Order

ROOT = Path(__file__).resolve().parents[3]
TESTS = ["test_a.py", "test_b.py", "test_c.py", "test_d.py"]


def test_the_table_names_files_that_exist() -> None:
    """A test file that is renamed is renamed in the table."""
    there = {path.name for path in (ROOT / "tests" / "datapath").glob("test_*.py")}
    assert Order.read(TABLE).named - there == set()


def test_the_table_comes_first_and_the_rest_by_name() -> None:
    """Files that the table does not name run as well, but for those that are left out."""
    order = Order({"x.c": ["test_c.py", "test_gone.py", "test_b.py"]}, {"test_a.py": "why"})
    assert order.of("x.c", TESTS) == ["test_c.py", "test_b.py", "test_d.py"]
    assert order.of("y.c", TESTS) == ["test_b.py", "test_c.py", "test_d.py"]


def test_what_noticed_before_comes_first() -> None:
    """Kills count more than the table, for the same C file only."""
    order = Order({"x.c": ["test_c.py"]}, {})
    for test in ("test_d.py", "test_b.py", "test_d.py"):
        order.learn("x.c", test)
    assert order.of("x.c", TESTS) == ["test_d.py", "test_b.py", "test_c.py", "test_a.py"]
    assert order.of("y.c", TESTS) == TESTS
