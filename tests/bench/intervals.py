# SPDX-License-Identifier: Apache-2.0
"""Quantiles with a 95 % interval that assumes nothing about the distribution.

The interval is the exact one of order statistics: of n independent samples the number below
the true q-quantile is binomial (n, q), whatever the distribution, so two ranks bound it with
known probability (David and Nagaraja, Order Statistics, 7.1). It was chosen over a bootstrap
because with 15 to 30 samples, some of them outliers that another tenant of the machine made,
a percentile bootstrap of a median covers less than it says, and because it needs no random
numbers: the same samples always print the same interval. It is never narrower than it says;
with few samples a side has no bound at all, and then None says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A quantile of what was sampled; `low` and `high` are None where no sample bounds it."""

    value: float
    low: float | None
    high: float | None


def quantile_estimate(
    samples: Sequence[float], quantile: float, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the quantile (0 to 1, neither of them) of the samples and its interval.

    Raises ValueError without samples or with a quantile that has no meaning.
    """
    if not samples:
        raise ValueError("a quantile needs at least one sample")
    if not 0 < quantile < 1:
        raise ValueError(f"a quantile is between 0 and 1, not {quantile}")
    ordered = sorted(samples)
    low, high = bounding_ranks(len(ordered), quantile, confidence)
    return Estimate(
        value=_value_at(ordered, quantile),
        low=ordered[low - 1] if low else None,
        high=ordered[high - 1] if high else None,
    )


def median_estimate(samples: Sequence[float]) -> Estimate:
    """Return the median of the samples and its 95 % interval."""
    return quantile_estimate(samples, 0.5)


def bounding_ranks(
    count: int, quantile: float, confidence: float = CONFIDENCE
) -> tuple[int | None, int | None]:
    """Return the ranks (from 1) of the samples that bound the quantile; None: there is none.

    Each tail outside holds at most half of what is left of the confidence.
    """
    tail = (1 - confidence) / 2
    low, high, below = None, None, 0.0
    for successes in range(count):
        below += _binomial(count, successes, quantile)
        if below <= tail:
            low = successes + 1
        if below >= 1 - tail:
            high = successes + 1
            break
    return low, high


def _binomial(trials: int, successes: int, chance: float) -> float:
    # By logarithms: math.comb() of a thousand samples doesn't fit a float.
    log_ways = (
        math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    )
    return math.exp(
        log_ways + successes * math.log(chance) + (trials - successes) * math.log1p(-chance)
    )


def _value_at(ordered: Sequence[float], quantile: float) -> float:
    if quantile == 0.5:
        return statistics.median(ordered)
    # The smallest sample that at least this share doesn't exceed. The tolerance keeps 0.9 * 10
    # at rank 9 where a float has it a little above.
    return ordered[math.ceil(quantile * len(ordered) - 1e-9) - 1]
