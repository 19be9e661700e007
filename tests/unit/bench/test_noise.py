# SPDX-License-Identifier: Apache-2.0
"""A report tells differences from noise: true ones are found, and no others."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest

from tests.bench.intervals import CONFIDENCE, quantile_estimate
from tests.bench.noise import Verdict, changes, mann_whitney, quantile_of, ratio_estimate
from tests.bench.runs import Record, Run

MANY = 90


def run_of(samples: Mapping[str, Sequence[float]], unit: str = "ratio") -> Run:
    """Return a run with figures of these samples."""
    figures = {}
    for name, each in samples.items():
        value, low, high = quantile_estimate(each, quantile_of(name))
        figures[name] = Record(name, unit, value, (low, high), tuple(each))
    return Run("x", [], "", 1.0, "", {}, {}, figures, [])


def noisy(seed: int, middle: float, count: int = MANY) -> list[float]:
    """Return samples with 3 % of noise and an outlier here and there."""
    chance = random.Random(seed)
    return [
        middle * chance.gauss(1, 0.03) * (1.6 if chance.random() < 0.03 else 1)
        for _ in range(count)
    ]


def verdicts(first: Run, other: Run, floor: float = 0.02) -> dict[str, Verdict]:
    """Return what is said of each figure."""
    return {name: change.verdict for name, change in changes(first, other, floor).items()}


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.08, Verdict.HIGHER), (0.92, Verdict.LOWER), (1.0, Verdict.NOISE)]
)
def test_a_true_difference_is_found_and_none_is_noise(factor: float, verdict: Verdict) -> None:
    """Eight percent in one of sixty figures is told from the other fifty-nine."""
    names = [f"g/m/case{number}" for number in range(60)]
    first = run_of({name: noisy(number, 1.0) for number, name in enumerate(names)})
    other = run_of(
        {
            name: noisy(1000 + number, factor if number == 7 else 1.0)
            for number, name in enumerate(names)
        }
    )
    said = verdicts(first, other)
    assert said.pop(names[7]) is verdict
    assert set(said.values()) == {Verdict.NOISE}


def test_the_ratio_is_the_other_by_the_first() -> None:
    """A figure that doubled has a ratio of two, in an interval that holds it."""
    ratio = changes(run_of({"a/b/c": noisy(1, 10)}), run_of({"a/b/c": noisy(2, 20)}))["a/b/c"].ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(2, rel=0.02)
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value < ratio.high


def test_what_samples_are_sure_of_may_still_be_below_the_floor() -> None:
    """One percent is no difference between runs, however many samples say so; a lower floor is."""
    first, other = (
        run_of({"a/b/c": [middle + n / 1e6 for n in range(MANY)]}) for middle in (1.0, 1.01)
    )
    assert verdicts(first, other) == {"a/b/c": Verdict.NOISE}
    assert verdicts(first, other, floor=0.005) == {"a/b/c": Verdict.HIGHER}


def test_many_figures_are_corrected_for() -> None:
    """What would pass as one figure alone is noise as one of a hundred."""
    one, two = list(range(100, 107)), [*range(103, 106), *range(120, 124)]
    assert mann_whitney(one, two) < 1 - CONFIDENCE
    alone = changes(run_of({"a/b/c": one}), run_of({"a/b/c": two}))["a/b/c"]
    same = {f"a/b/{n}": [1.0 + n] * 7 for n in range(99)}
    among = changes(run_of({"a/b/c": one, **same}), run_of({"a/b/c": two, **same}))["a/b/c"]
    assert alone.chance == pytest.approx(mann_whitney(one, two))
    assert among.chance == pytest.approx(min(1, 100 * mann_whitney(one, two)))


def test_other_quantiles_are_compared_as_such() -> None:
    """Twice the p99 with the same median is higher; with too few samples nothing is said."""

    def tailed(tail: float, count: int) -> list[float]:
        return [*(1 + n / count / 10 for n in range(count)), *([tail] * (count // 20))]

    first, other = (run_of({"a/b/p99": tailed(tail, 2000)}, "ms") for tail in (10, 20))
    assert verdicts(first, other) == {"a/b/p99": Verdict.HIGHER}
    first, other = (run_of({"a/b/p99": tailed(tail, 100)}, "ms") for tail in (10, 20))
    assert verdicts(first, other) == {"a/b/p99": Verdict.FEW}
    first, other = (run_of({"a/b/p99": tailed(10, 2000)}, "ms") for _ in range(2))
    assert verdicts(first, other) == {"a/b/p99": Verdict.NOISE}


def test_what_cannot_be_compared_is_named() -> None:
    """A figure of one run alone, other units, zeros, and two samples are no differences."""
    first = run_of({"a/b/gone": [1.0], "a/b/few": [1, 2], "a/b/zero": [0.0] * 9})
    other = run_of({"a/b/new": [1.0], "a/b/few": [8, 9], "a/b/zero": [1.0] * 9})
    assert verdicts(first, other) == {
        "a/b/gone": Verdict.MISSING,
        "a/b/few": Verdict.FEW,
        "a/b/zero": Verdict.UNLIKE,
        "a/b/new": Verdict.MISSING,
    }
    assert verdicts(run_of({"a/b/c": noisy(1, 1)}, "ms"), run_of({"a/b/c": noisy(1, 1)}, "s")) == {
        "a/b/c": Verdict.UNLIKE
    }


@pytest.mark.parametrize(
    ("name", "quantile"),
    [
        ("g/m/p50", 0.5),
        ("g/m/p99", 0.99),
        ("g/m/tcp4/p999", 0.999),
        ("g/tcp4", 0.5),
        ("g/up9", 0.5),
    ],
)
def test_a_name_says_which_quantile(name: str, quantile: float) -> None:
    """Only an ending of its own, p and digits, is one."""
    assert quantile_of(name) == pytest.approx(quantile)


def test_mann_whitney_counts_few_samples_exactly() -> None:
    """By hand: 3 and 3 apart are 2 of 20 ways; ties share ranks; equals are certain to be so."""
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert mann_whitney([4, 5, 6], [1, 2, 3]) == pytest.approx(2 / 20)
    assert mann_whitney([1, 1], [1, 2]) == pytest.approx(1)
    assert mann_whitney([5] * 3, [5] * 4) == 1
    assert mann_whitney([5] * 60, [5] * 60) == 1


def test_the_approximation_meets_the_exact_count() -> None:
    """Where one takes over from the other, both say the same."""
    left, right = [n + 0.5 for n in range(20)], [n * 1.3 + 3 for n in range(20)]
    exact = mann_whitney(left, right)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.bench.noise.EXACT", 0)
        assert mann_whitney(left, right) == pytest.approx(exact, abs=0.01)


def test_intervals_hold_the_true_ratio() -> None:
    """At least 95 of 100 intervals of equal things hold 1."""
    holding = 0
    for seed in range(100):
        ratio = ratio_estimate(noisy(seed, 1, 30), noisy(seed + 500, 1, 30), 0.5, CONFIDENCE)
        assert ratio.low is not None
        assert ratio.high is not None
        holding += ratio.low <= 1 <= ratio.high
    assert holding >= 95


def test_equal_runs_seldom_differ() -> None:
    """Without a floor, of twenty comparisons of ten equal figures one is false at most."""
    false = 0
    for seed in itertools.islice(itertools.count(step=100), 20):
        first, other = (
            run_of({f"a/b/{n}": noisy(seed + start + n, 1, 30) for n in range(10)})
            for start in (0, 50)
        )
        false += any(each is not Verdict.NOISE for each in verdicts(first, other, 0).values())
    assert false <= 1
