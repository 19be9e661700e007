# SPDX-License-Identifier: Apache-2.0
"""Is a draw even? Pearson's chi-square test with an exact tail probability."""

from __future__ import annotations

import math
from collections.abc import Iterable


def chi_square(counts: Iterable[int]) -> float:
    """Return Pearson's statistic of counts against the uniform distribution."""
    observed = list(counts)
    expected = sum(observed) / len(observed)
    return sum((count - expected) ** 2 for count in observed) / expected


def tail_probability(statistic: float, freedom: int) -> float:
    """Return the chance that a chi-square variable with `freedom` degrees is at least this.

    The regularised upper incomplete gamma function Q(freedom/2, statistic/2), which is a
    finite sum for whole degrees of freedom (Abramowitz and Stegun 26.4.4 and 26.4.5).
    """
    half = statistic / 2
    odd = freedom % 2
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    term = 2 * math.sqrt(half / math.pi) * math.exp(-half) if odd else math.exp(-half)
    for k in range(odd, freedom, 2):
        total += term
        term *= statistic / (k + 2)
    return total


def evenness(counts: Iterable[int]) -> float:
    """Return how probable counts at least this uneven are when each choice is equally likely."""
    observed = list(counts)
    if len(observed) < 2:
        return 1.0
    return tail_probability(chi_square(observed), len(observed) - 1)
