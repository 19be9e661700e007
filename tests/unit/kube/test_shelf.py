# SPDX-License-Identifier: Apache-2.0
"""What the shelf of an API source holds in memory; what it tells is tested with a server."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest

from pyproxy.kube.api_shelf import Shelf
from pyproxy.kube.events import Change, Event, Kind, Report
from pyproxy.model import ObjectName
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
    return relisted(shelf, pages(version))


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


@pytest.mark.parametrize(
    "head", [{"resourceVersion": 5}, {"resourceVersion": None, "labels": 7}], ids=["version", "all"]
)
def test_a_listed_object_with_a_malformed_head_is_known_by_its_name(
    shelf: Shelf, head: dict[str, object]
) -> None:
    """Its last good version counts, as with any other part that is malformed."""
    listed(shelf, 1)
    broken = builders.endpoint_slice("slice-0", service="service-0")
    broken["metadata"].update(head)
    broken["ports"] = 7
    told = relisted(shelf, [*pages(2)[1:], raw(broken)])
    (report,) = told
    assert isinstance(report, Report)
    assert report.source == "EndpointSlice default/slice-0"


def test_a_list_with_what_has_no_name_removes_nothing(shelf: Shelf) -> None:
    """It may be any of those that are missing; the next whole list removes them."""
    listed(shelf, 1)
    told = relisted(shelf, [*pages(2)[2:], raw({"metadata": {"name": 7}})])
    assert [type(each) for each in told] == [Report]
    gone = [each.name.name for each in relisted(shelf, pages(3)[2:]) if isinstance(each, Change)]
    assert sorted(gone) == ["slice-0", "slice-1"]


def test_a_node_that_is_missing_is_never_called_mended() -> None:
    """However often all there is is listed."""
    shelf = Shelf(Kind.NODE, "n1")
    (report,) = relisted(shelf, [])
    assert isinstance(report, Report)
    assert report.lacks is None
    assert relisted(shelf, []) == []
    node = builders.node("n1")
    assert Report(report.source, "", None) in relisted(shelf, [raw(node)])


@pytest.mark.parametrize("kind", [Kind.SERVICE, Kind.ENDPOINT_SLICE])
def test_a_malformed_service_may_be_missing(kind: Kind) -> None:
    """Only it, and only as long as no good version of it counts."""
    shelf = Shelf(kind)
    broken = raw({"metadata": {"name": "web"}, "spec": 7, "endpoints": 7})
    (report,) = relisted(shelf, [broken])
    assert isinstance(report, Report)
    assert report.lacks == (ObjectName("default", "web") if kind is Kind.SERVICE else None)
    if kind is Kind.SERVICE:
        relisted(shelf, [raw(builders.service("web", cluster_ip="10.0.0.1"))])
        (report,) = relisted(shelf, [broken])
        assert isinstance(report, Report)
        assert report.lacks is None


def raw(document: object) -> msgspec.Raw:
    """Return a document as a member of a page."""
    return msgspec.Raw(msgspec.json.encode(document))


def relisted(shelf: Shelf, documents: list[msgspec.Raw]) -> list[Event]:
    """Take a whole list of these; return what the shelf told."""
    shelf.begin_list()
    told = [event for document in documents for event in shelf.put_listed(document)]
    return told + list(shelf.end_list())


def traced() -> int:
    """Return how many bytes are allocated since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
