# SPDX-License-Identifier: Apache-2.0
"""Numbers that the agent's threads count and a scrape reads, without a library to load.

prometheus_client has such classes, too. It costs 3 MB and 60 ms of a start, so that it is loaded by
the first scrape (serve/exposition.py) and nothing here knows it. A meter may be used by any thread.
"""

from __future__ import annotations

import enum
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

Labels: TypeAlias = tuple[str, ...]


class Type(enum.Enum):
    """What a metric is, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Spec(NamedTuple):
    """A metric: its name as it is scraped, the names of its labels, the bounds of its buckets.

    `bounds` are those of a histogram, in its unit, without the infinite one.
    """

    name: str
    type: Type
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


class Distribution(NamedTuple):
    """What a histogram has seen: how many values in each bucket alone, and their sum."""

    counts: tuple[int, ...]
    sum: float


class Reading(NamedTuple):
    """A metric as it is at one moment, by the values of its labels."""

    spec: Spec
    values: Mapping[Labels, float | Distribution]


class Meter:
    """A counter or a gauge; `known` are label values that are 0 from the start.

    A counter that is not there before its first event shows no rate for it.
    """

    def __init__(self, spec: Spec, known: Iterable[Labels] = ()) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = dict.fromkeys(known or ([] if spec.labels else [()]), 0)

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def set(self, value: float, *labels: str) -> None:
        """Take a gauge's value."""
        with self._lock:
            self._values[labels] = value

    def read(self) -> Reading:
        """Return what it shows now."""
        with self._lock:
            return Reading(self.spec, dict(self._values))


class Histogram:
    """Counts values by size; `known` as a Meter's."""

    def __init__(self, spec: Spec, known: Iterable[Labels] = ()) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {labels: self._empty() for labels in known}
        self._sums: dict[Labels, float] = dict.fromkeys(self._counts, 0.0)

    def observe(self, value: float, *labels: str) -> None:
        """Count a value; one that equals a bound is within it."""
        place = bisect_left(self.spec.bounds, value)
        with self._lock:
            self._counts.setdefault(labels, self._empty())[place] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + value

    def read(self) -> Reading:
        """Return what it has seen so far."""
        with self._lock:
            return Reading(
                self.spec,
                {
                    labels: Distribution(tuple(counts), self._sums[labels])
                    for labels, counts in self._counts.items()
                },
            )

    def _empty(self) -> list[int]:
        return [0] * (len(self.spec.bounds) + 1)
