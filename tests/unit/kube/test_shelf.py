# SPDX-License-Identifier: Apache-2.0
"""What the shelf of an API source holds in memory; what it tells is tested with a server."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest

from pyproxy.kube.api_shelf import Shelf
from pyproxy.kube.events import Change, Event, Kind
from tests import builders

SLICES = 300


def pages(version: int) -> list[msgspec.Raw]:
    """Return slices of the same content, whatever their resourceVersion."""
    documents = []
    for number in range(SLICES):
        document = builders.endpoint_slice(f"slice-{number}", service=f"service-{number}")
        document["metadata"]["resourceVersion"] = str(version)
        documents.append(msgspec.Raw(msgspec.json.encode(document)))
    return documents


def listed(shelf: Shelf, version: int) -> list[Event]:
    """Take a whole list; return what the shelf told."""
    shelf.begin_list()
    told = [event for document in pages(version) for event in shelf.put_listed(document)]
    return told + list(shelf.end_list())


@pytest.fixture
def shelf() -> Shelf:
    """Return an empty shelf for slices."""
    return Shelf(Kind.ENDPOINT_SLICE)


def test_a_list_of_what_is_known_keeps_no_second_copy(shelf: Shelf) -> None:
    """After a 410 the records that others hold are those that go on to count."""
    tracemalloc.start()
    try:
        # held as World holds them
        told = listed(shelf, 1)
        assert len(told) == SLICES
        first = traced()
        assert listed(shelf, 2) == []
        assert traced() - first < first / 4
    finally:
        tracemalloc.stop()


def test_names_are_the_records_own(shelf: Shelf) -> None:
    """An object has one name in memory, by whatever it is looked up."""
    for event in listed(shelf, 1):
        assert isinstance(event, Change)
        assert event.object is not None
        assert event.name is event.object.name


def traced() -> int:
    """Return how many bytes are allocated since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
