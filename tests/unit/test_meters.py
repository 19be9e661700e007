# SPDX-License-Identifier: Apache-2.0
"""Meters count what threads tell them."""

from __future__ import annotations

import threading

from pyproxy.meters import Distribution, Histogram, Meter, Spec, Type

COUNTED = Spec("things_total", Type.COUNTER, "Things.", ("colour",))
TOOK = Spec("took_seconds", Type.HISTOGRAM, "How long.", ("colour",), (0.5, 1.0))


def test_a_value_that_equals_a_bound_is_within_it() -> None:
    """Prometheus' le: less or equal."""
    took = Histogram(TOOK)
    for value in (0.1, 0.5, 0.75, 1.0, 7.0):
        took.observe(value, "red")
    assert took.read().values == {("red",): Distribution((2, 2, 1), 9.35)}


def test_what_is_known_is_there_before_its_first_event() -> None:
    """With nothing counted; what has no labels is always known."""
    assert Meter(COUNTED, [("red",)]).read().values == {("red",): 0}
    assert Meter(COUNTED).read().values == {}
    assert Meter(COUNTED._replace(labels=())).read().values == {(): 0}
    assert Histogram(TOOK, [("red",)]).read().values == {("red",): Distribution((0, 0, 0), 0.0)}


def test_a_reading_does_not_change() -> None:
    """Who scrapes has time to write it down."""
    counted = Meter(COUNTED)
    counted.add("red")
    reading = counted.read()
    counted.add("red", by=2)
    assert reading.values == {("red",): 1}
    assert counted.read().values == {("red",): 3}


def test_threads_lose_nothing() -> None:
    """However many count at once."""
    counted, took = Meter(COUNTED), Histogram(TOOK)

    def count() -> None:
        for _ in range(2000):
            counted.add("red")
            took.observe(0.25, "red")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.read().values == {("red",): 8000}
    assert took.read().values == {("red",): Distribution((8000, 0, 0), 2000.0)}
