# SPDX-License-Identifier: Apache-2.0
"""Runs of slots never overlap and come back whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.sync.slots import Slots, order_of

TOTAL = 128


def size_of(count: int) -> int:
    """Return how many slots a run for `count` really takes."""
    return 1 << order_of(count)


def test_slot_zero_is_never_handed_out() -> None:
    """Slot 0 means "never written"."""
    slots = Slots(4)
    assert sorted(s for s in (slots.take(1), slots.take(1), slots.take(1)) if s) == [1, 2, 3]
    assert slots.take(1) is None


@given(st.lists(st.integers(1, 40), max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_runs_never_overlap_and_come_back_whole(counts: list[int], random: object) -> None:
    """Whatever is taken and freed in whatever order, the whole array is free in the end."""
    slots, held = Slots(TOTAL), []
    for count in counts:
        first = slots.take(count)
        if first is None or random.random() < 0.4:  # type: ignore[attr-defined] # a Random
            if first is not None:
                held.append((first, count))
            if held:
                slots.give_back(*held.pop(random.randrange(len(held))))  # type: ignore[attr-defined] # as above
            continue
        held.append((first, count))
        used = [set(range(f, f + size_of(c))) for f, c in held]
        assert sum(map(len, used)) == len(set().union(*used)), "two runs share a slot"
        assert slots.used == 1 + sum(map(len, used))
    for first, count in held:
        slots.give_back(first, count)
    assert slots.used == 1
    assert slots.take(TOTAL // 2) == TOTAL // 2


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10))
def test_adopting_the_same_runs_gives_the_same_books(counts: list[int]) -> None:
    """take_at() on a fresh allocator leaves the same slots free as the take() before."""
    before, after = Slots(TOTAL), Slots(TOTAL)
    runs = [(first, count) for count in counts if (first := before.take(count)) is not None]
    assert all(after.take_at(first, count) for first, count in reversed(runs))
    assert after.used == before.used
    assert not any(after.take_at(first, count) for first, count in runs), "taken twice"
