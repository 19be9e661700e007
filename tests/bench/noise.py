# SPDX-License-Identifier: Apache-2.0
"""Which differences between two runs are larger than the noise.

Three things have to agree, since each of them alone is fooled by something that happens here:

- The samples differ: the test of Mann and Whitney, which assumes no distribution (samples have
  outliers that other tenants of the machine made, so no t-test). With few samples it is exact, ties
  included; else by its normal approximation.
- Many figures are compared at once, of which one in twenty would differ by chance: Holm's
  correction bounds the chance of a single false one among all by 5 %, whatever depends on what.
- The difference matters: the whole 95 % interval of the ratio of both medians lies beyond a floor.
  Samples of one run share what the run was lucky with (programs that are loaded anew lie elsewhere
  in memory, which alone makes up to 2 % here), so that a hundred samples can be sure of a
  difference that the next run turns around. The interval is made of the exact ones of both medians
  (intervals.py): it needs no random numbers as a bootstrap does, so that a report of the same files
  always says the same, and it is never narrower than it says.

A figure that is another quantile (its name ends so: "p99") is not what Mann and Whitney compare.
There the interval decides alone, at a confidence that Bonferroni's correction raises for as many
figures as there are.
"""

from __future__ import annotations

import enum
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.bench.intervals import CONFIDENCE, Estimate, quantile_estimate
from tests.bench.runs import Record, Run

FLOOR = 0.02
# Samples of both sides up to which all ways to share them out are counted.
EXACT = 40
QUANTILE = re.compile(r"(?:^|[/-])p(\d{2,3})$")


class Verdict(enum.Enum):
    """What is said of a figure in another run than the first."""

    HIGHER = "higher"
    LOWER = "lower"
    NOISE = "within the noise"
    FEW = "too few samples to say"
    UNLIKE = "not comparable"
    MISSING = "not measured"


class Change(NamedTuple):
    """A figure by the first run's: the ratio with its interval, the chance, and the verdict.

    `chance` is that of samples that differ as much where nothing does, corrected; None: untested.
    """

    verdict: Verdict
    ratio: Estimate | None = None
    chance: float | None = None


def changes(first: Run, other: Run, floor: float = FLOOR) -> dict[str, Change]:
    """Return what has become of each figure that either run has."""
    names = dict.fromkeys((*first.figures, *other.figures))
    pairs = {
        name: (first.figures[name], other.figures[name])
        for name in names
        if name in first.figures and name in other.figures and _alike(first, other, name)
    }
    chances = _holm(
        {name: mann_whitney(*_samples(pair)) for name, pair in pairs.items() if _is_median(name)}
    )
    return {
        name: _change(pairs[name], chances.get(name), len(pairs), floor)
        if name in pairs
        else Change(_why_not(first, other, name))
        for name in names
    }


def _why_not(first: Run, other: Run, name: str) -> Verdict:
    both = name in first.figures and name in other.figures
    return Verdict.UNLIKE if both else Verdict.MISSING


def _alike(first: Run, other: Run, name: str) -> bool:
    """Tell whether a ratio has a meaning: one unit, and nothing that is zero or less."""
    pair = (first.figures[name], other.figures[name])
    return pair[0].unit == pair[1].unit and all(min(each.samples) > 0 for each in pair)


def _samples(pair: tuple[Record, Record]) -> tuple[Sequence[float], Sequence[float]]:
    return pair[0].samples, pair[1].samples


def quantile_of(name: str) -> float:
    """Return which quantile of its samples a figure is by its name: 0.5 unless that says else."""
    found = QUANTILE.search(name)
    return int(found[1]) / 10 ** len(found[1]) if found else 0.5


def _is_median(name: str) -> bool:
    return quantile_of(name) == 0.5


def _change(
    pair: tuple[Record, Record], chance: float | None, compared: int, floor: float
) -> Change:
    share = 1 if chance is not None else compared
    ratio = ratio_estimate(*_samples(pair), quantile_of(pair[0].name), 1 - (1 - CONFIDENCE) / share)
    if ratio.low is None or ratio.high is None:
        return Change(Verdict.FEW, ratio, chance)
    differs = chance is None or chance < 1 - CONFIDENCE
    if differs and ratio.low > 1 + floor:
        return Change(Verdict.HIGHER, ratio, chance)
    if differs and ratio.high < 1 / (1 + floor):
        return Change(Verdict.LOWER, ratio, chance)
    return Change(Verdict.NOISE, ratio, chance)


def ratio_estimate(
    under: Sequence[float], over: Sequence[float], quantile: float, confidence: float
) -> Estimate:
    """Return the ratio of two quantiles; each interval takes half of what may go wrong."""
    half = 1 - (1 - confidence) / 2
    a, b = (quantile_estimate(samples, quantile, half) for samples in (under, over))
    return Estimate(
        b.value / a.value,
        b.low / a.high if b.low is not None and a.high is not None else None,
        b.high / a.low if b.high is not None and a.low is not None else None,
    )


def _holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Return the chances corrected for their number: the smallest by all, and so on."""
    corrected: dict[str, float] = {}
    worst = 0.0
    for number, (name, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, chance * (len(chances) - number)))
        corrected[name] = worst
    return corrected


def mann_whitney(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the chance of ranks that lie as far apart as these where both sides are the same."""
    ranks = list(_doubled_ranks([*left, *right]))
    found, size = sum(ranks[: len(left)]), len(left)
    if len(ranks) <= EXACT:
        return _exact(ranks, size, found)
    return _approximate(ranks, size, found)


def _doubled_ranks(values: Sequence[float]) -> Iterator[int]:
    """Yield twice the rank of each value: equal ones have the mean of theirs."""
    counts, below, doubled = Counter(values), 0, {}
    for value in sorted(counts):
        doubled[value] = 2 * below + counts[value] + 1
        below += counts[value]
    return (doubled[value] for value in values)


def _exact(ranks: Sequence[int], size: int, found: int) -> float:
    """Count the ways to choose so many ranks whose sum is as far from the middle as the one found.

    Sums are of doubled ranks; their middle is size * (all + 1).
    """
    ways: list[Counter[int]] = [Counter({0: 1}), *(Counter[int]() for _ in range(size))]
    for rank in ranks:
        for chosen in range(size, 0, -1):
            for total, count in ways[chosen - 1].items():
                ways[chosen][total + rank] += count
    middle = size * (len(ranks) + 1)
    far = abs(found - middle)
    as_far = sum(count for total, count in ways[size].items() if abs(total - middle) >= far)
    return as_far / math.comb(len(ranks), size)


def _approximate(ranks: Sequence[int], size: int, found: int) -> float:
    total = len(ranks)
    far = abs(found - size * (total + 1)) / 2
    spread = statistics.pvariance(ranks) / 4 * size * (total - size) / (total - 1)
    if spread == 0:
        return 1.0
    # Half a rank less: sums are whole numbers.
    return math.erfc(max(far - 0.5, 0) / math.sqrt(2 * spread))
