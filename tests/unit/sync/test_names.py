# SPDX-License-Identifier: Apache-2.0
"""Numbers of services and nodes: each once, and none again before it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.sync.names import Ids

MOST = 8


def test_a_number_that_came_back_waits_for_all_others() -> None:
    """A service that is made anew is not found by what is keyed by its former number."""
    ids = Ids(4)
    assert [ids.take(), ids.take()] == [1, 2]
    ids.give_back(1)
    assert ids.take() == 3
    ids.give_back(2)
    assert [ids.take() for _ in range(4)] == [4, 1, 2, None]


def test_a_number_that_was_found_and_came_back_waits_too() -> None:
    """After a start, what the last agent handed out is no fresher than after none."""
    ids = Ids(MOST)
    ids.adopt(5)
    ids.give_back(5)
    assert [ids.take() for _ in range(MOST)] == [6, 7, 8, 1, 2, 3, 4, 5]


@given(
    adopted=st.lists(st.integers(1, MOST), unique=True),
    steps=st.lists(st.integers(-1, MOST - 1), max_size=40),
)
def test_every_number_is_somebodys_or_free(adopted: list[int], steps: list[int]) -> None:
    """None is handed out twice, none is lost, whatever was found at the start."""
    ids, held = Ids(MOST), list(adopted)
    for number in adopted:
        ids.adopt(number)
    for step in steps:
        if 0 <= step < len(held):
            ids.give_back(held.pop(step))
        elif (taken := ids.take()) is None:
            assert len(held) == MOST
        else:
            assert taken not in held
            assert 1 <= taken <= MOST
            held.append(taken)
        assert len(ids) == len(held)
    rest = [ids.take() for _ in range(MOST - len(held))]
    assert sorted(held + [number for number in rest if number]) == list(range(1, MOST + 1))
