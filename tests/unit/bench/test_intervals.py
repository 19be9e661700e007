# SPDX-License-Identifier: Apache-2.0
"""The interval of a quantile says the truth as often as it claims."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.intervals import bounding_ranks, median_estimate, quantile_estimate

# By hand: of binomial (15, 1/2) is P(B <= 3) = 576/32768 = 0.0176 and P(B <= 4) = 0.0592, so
# the 4th and, by symmetry, the 12th sample bound the median; the others likewise.
MEDIAN_RANKS = {6: (1, 6), 8: (1, 8), 9: (2, 8), 15: (4, 12), 20: (6, 15), 31: (10, 22)}


@pytest.mark.parametrize(("count", "ranks"), MEDIAN_RANKS.items())
def test_median_ranks_are_those_of_the_tables(count: int, ranks: tuple[int, int]) -> None:
    """The ranks that bound a median are those that statisticians have printed."""
    assert bounding_ranks(count, 0.5) == ranks


def test_too_few_samples_bound_nothing() -> None:
    """With five samples a median has no 95 % interval, and none is claimed."""
    assert bounding_ranks(5, 0.5) == (None, None)
    assert quantile_estimate([3.0, 1.0, 2.0], 0.5) == (2.0, None, None)


def test_a_high_quantile_needs_many_samples_for_an_upper_bound() -> None:
    """A hundred samples bound a p99 from below only, four hundred from both sides."""
    low, high = bounding_ranks(100, 0.99)
    assert low is not None
    assert high is None
    assert bounding_ranks(400, 0.99)[1] is not None


@pytest.mark.parametrize(
    ("quantile", "value"), [(0.1, 1), (0.11, 2), (0.9, 9), (0.91, 10), (0.99, 10)]
)
def test_a_quantile_is_the_smallest_sample_with_that_share_below(
    quantile: float, value: int
) -> None:
    """Of 1 to 10 the p90 is 9, and one more thousandth makes it 10."""
    assert quantile_estimate(range(1, 11), quantile).value == value


def test_the_order_of_samples_does_not_count() -> None:
    """Samples come in the order of time; the estimate is the same in any."""
    samples = [float(n) for n in range(50)]
    shuffled = random.Random(1).sample(samples, len(samples))
    assert median_estimate(shuffled) == median_estimate(samples)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_interval_covers_the_true_quantile(quantile: float) -> None:
    """Of 2,000 drawn experiments, skewed ones, at least 94 % have the truth in the interval.

    The exact chance is at least 95 %: fewer than 1,880 of 2,000 is a 4-sigma event.
    """
    draw = random.Random(7)
    covered = 0
    for _ in range(2000):
        # The p-quantile of u**3, u uniform, is p**3.
        low, high = quantile_estimate([draw.random() ** 3 for _ in range(60)], quantile)[1:]
        assert low is not None
        assert high is not None
        covered += low <= quantile**3 <= high
    assert covered >= 1880


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_an_interval_holds_its_value(samples: list[float], quantile: float) -> None:
    """The estimate is never outside of its own interval."""
    value, low, high = quantile_estimate(samples, quantile)
    assert low is None or low <= value
    assert high is None or value <= high
    assert min(samples) <= value <= max(samples)


@pytest.mark.parametrize(("samples", "quantile"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.0)])
def test_what_has_no_quantile_is_refused(samples: list[float], quantile: float) -> None:
    """No samples, or a quantile of 0 or 1, is an error and no number."""
    with pytest.raises(ValueError, match="quantile"):
        quantile_estimate(samples, quantile)
