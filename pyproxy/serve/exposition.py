# SPDX-License-Identifier: Apache-2.0
"""Readings as Prometheus' text, version 0.0.4, as kube-proxy answers it (parity A13.4).

The library writes everything but what there is of every service: for those 80,000 samples it takes
more than a second, and ServiceLines a tenth of that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from pyproxy.meters import Distribution, Reading, Type
from pyproxy.model import Family, ServicePortName
from pyproxy.serve.servicelines import service_lines
from pyproxy.tables import ServiceCounters

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Found = TypeVar("_Found")
Read: TypeAlias = Callable[[], Iterable[Reading]]
ReadServices: TypeAlias = Callable[[], Mapping[tuple[Family, ServicePortName], ServiceCounters]]


class Exposition:
    """What a scrape gets: all readings of `sources`, the process's own, and those of services.

    Sources are called by whichever thread scrapes; one that fails is left out, and logged once.
    """

    def __init__(
        self, sources: Sequence[Read], services: ReadServices | None = None, *, process: bool = True
    ) -> None:
        self._sources = tuple(partial(_whole, each) for each in sources)
        self._services = services
        self._process = process
        self._failed: set[Callable[[], object]] = set()

    def chunks(self) -> Iterator[bytes]:
        """Yield the text, in pieces of some 100 KB at most."""
        # 3 MB and 60 ms that no start pays for, nor a node that nobody scrapes
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415
        from prometheus_client.exposition import generate_latest  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(self)
        if self._process:
            ProcessCollector(registry=registry)
        yield generate_latest(registry)
        found = self._asked(self._services) if self._services else None
        if found is not None:
            yield from service_lines(found)

    def collect(self) -> Iterator[Metric]:
        """Yield everything but what there is of every service, for the library."""
        for source in self._sources:
            yield from map(_metric, self._asked(source) or ())

    def _asked(self, source: Callable[[], _Found]) -> _Found | None:
        """Return what a source gives, None where it fails."""
        try:
            found = source()
        except Exception:
            if source not in self._failed:
                log.exception("some metrics are missing")
            self._failed.add(source)
            return None
        self._failed.discard(source)
        return found


def _whole(source: Read) -> list[Reading]:
    """Return all that a source gives: what fails midway is not there."""
    return list(source())


def _metric(reading: Reading) -> Metric:
    from prometheus_client import core  # noqa: PLC0415 - as above

    name, kind, words, labels, bounds = reading.spec
    if kind is Type.HISTOGRAM:
        histogram = core.HistogramMetricFamily(name, words, labels=labels)
        for values, seen in reading.values.items():
            distribution = cast("Distribution", seen)
            histogram.add_metric(values, _buckets(bounds, distribution.counts), distribution.sum)
        return histogram
    make = core.CounterMetricFamily if kind is Type.COUNTER else core.GaugeMetricFamily
    family = make(name, words, labels=labels)
    for values, value in reading.values.items():
        family.add_metric(values, cast("float", value))
    return family


def _buckets(bounds: tuple[float, ...], counts: Sequence[int]) -> list[tuple[str, int]]:
    """Return how many values were within each bound."""
    total, found = 0, []
    for bound, count in zip([*map(bound_text, bounds), "+Inf"], counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def bound_text(bound: float) -> str:
    """Return a bucket's bound as Go writes it, 1 and not 1.0.

    It is a label: nodes with kube-proxy and ours shall have the same series.
    """
    return repr(bound).removesuffix(".0")
