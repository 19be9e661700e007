# SPDX-License-Identifier: Apache-2.0
"""Who runs what when the tests are run by several processes (pytest -n), each with its node.

A file stays with one process, and files whose tests share a fixture that takes seconds stay with
the same. What takes longest begins first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

# the longest first
GROUPS: tuple[Sequence[str], ...] = (
    ("test_loading.py",),
    ("test_move.py", "test_move_races.py", "test_look_back.py"),
    ("test_rule_11.py", "test_small_maps.py", "test_redundant_checks.py"),
    ("test_bench_nanoseconds.py",),
    ("test_bench_traffic.py",),
    ("test_fuzz.py",),
    ("test_sweep.py",),
)
PLACES = {file: place for place, group in enumerate(GROUPS) for file in group}


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Gives each process a whole group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.split("::", maxsplit=1)[0]).name
        return f"group {PLACES[file]}" if file in PLACES else file


def longest_first(items: list[pytest.Item]) -> None:
    """Bring tests into the order in which processes should get them; files stay whole."""
    items.sort(key=lambda item: PLACES.get(item.path.name, len(GROUPS)))
