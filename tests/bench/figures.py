# SPDX-License-Identifier: Apache-2.0
"""What a measure gives back: figures, and whether their targets were met."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.intervals import Estimate, median_estimate


class Direction(enum.Enum):
    """Which side of the target is the good one."""

    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True)
class Target:
    """What a figure is to reach, in the figure's unit."""

    direction: Direction
    bound: float

    def met_by(self, value: float) -> bool:
        """Tell whether the value is on the good side or on the bound."""
        if self.direction is Direction.AT_LEAST:
            return value >= self.bound
        return value <= self.bound

    def __str__(self) -> str:
        return f"{self.direction.value} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    `name` is `<group>/<measure>/<case>`; `unit` is "ratio", "ns", "us", "ms", "s", "MB" or "MB/s"
    (10**6 bytes); `samples` are the raw ones in that unit, in the order in which they were taken,
    and `details` is what else the JSON is to have.
    """

    name: str
    unit: str
    estimate: Estimate
    samples: Sequence[float]
    target: Target | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Tell whether the target was met; None without a target."""
        return self.target.met_by(self.estimate.value) if self.target else None

    @property
    def certain(self) -> bool | None:
        """Tell whether the whole interval says the same as `met`; None without a target."""
        if not self.target:
            return None
        ends = (self.estimate.low, self.estimate.high)
        # An end without a bound may be anywhere, so it only counts on the good side.
        bad_end = ends[0] if self.target.direction is Direction.AT_LEAST else ends[1]
        good_end = ends[1] if self.target.direction is Direction.AT_LEAST else ends[0]
        decisive = bad_end if self.met else good_end
        return decisive is not None and self.target.met_by(decisive) == self.met


def at_least(bound: float) -> Target:
    """Return a target that larger figures meet."""
    return Target(Direction.AT_LEAST, bound)


def at_most(bound: float) -> Target:
    """Return a target that smaller figures meet."""
    return Target(Direction.AT_MOST, bound)


def median_figure(
    name: str,
    unit: str,
    samples: Sequence[float],
    target: Target | None = None,
    details: Mapping[str, object] | None = None,
) -> Figure:
    """Return the figure that is the median of its samples."""
    return Figure(name, unit, median_estimate(samples), tuple(samples), target, details or {})


def worst_figure(name: str, unit: str, samples: Sequence[float], target: Target) -> Figure:
    """Return the figure that is the largest of its samples: for what may never be exceeded."""
    worst = max(samples)
    return Figure(name, unit, Estimate(worst, min(samples), worst), tuple(samples), target)
