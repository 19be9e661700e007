# SPDX-License-Identifier: Apache-2.0
"""Watches: from when, what they are sent, how they end."""

from __future__ import annotations

import json
import statistics
import time

import pytest

from tests.api.server.asking import (
    NODES,
    SERVICES,
    SLICES,
    Query,
    WatchClient,
    bearer,
    get,
    read_reply,
)
from tests.apiserver import ApiServer, Settings
from tests.builders import endpoint_slice, node, service
from tests.lab.waiting import wait_for

OURS = {"labelSelector": "!service.kubernetes.io/service-proxy-name"}
FOREIGN = {"service.kubernetes.io/service-proxy-name": "other"}


def test_a_watch_goes_on_from_a_list(plain: ApiServer) -> None:
    """Changes after the revision, of before and after the watch began, each once and in order."""
    revision = plain.put(service("old"))
    plain.put(service("missed"))
    with WatchClient(plain, SERVICES, {"resourceVersion": revision}) as watch:
        plain.put(service("missed", cluster_ip="10.96.0.99"))
        plain.delete("Service", "default", "old")
        seen = [watch.brief() for _ in range(3)]
    assert seen == [("ADDED", "missed"), ("MODIFIED", "missed"), ("DELETED", "old")]


@pytest.mark.parametrize("query", [{}, {"resourceVersion": 0}])
def test_a_watch_from_anywhere_begins_with_what_is(plain: ApiServer, query: Query) -> None:
    """Without a revision, or from 0, every object comes first, as ADDED."""
    plain.put(service("a"), service("b"))
    with WatchClient(plain, SERVICES, query) as watch:
        plain.put(service("c"))
        assert [watch.brief()[1] for _ in range(3)] == ["a", "b", "c"]


def test_leaving_and_entering_the_selector(plain: ApiServer) -> None:
    """A1.2: a label that takes an object out of the selector is a DELETED of its last form."""
    revision = plain.put(service("web"))
    with WatchClient(plain, SERVICES, {**OURS, "resourceVersion": revision}) as watch:
        out = plain.put(service("web", labels=FOREIGN))
        plain.put(service("web", labels=FOREIGN, cluster_ip="10.96.0.77"))
        plain.put(service("web"))
        left, back = watch.event(), watch.event()
    assert (left["type"], back["type"]) == ("DELETED", "ADDED")
    assert left["object"]["metadata"]["resourceVersion"] == str(out)
    assert "labels" not in left["object"]["metadata"]


def test_fields_and_namespaces_select(plain: ApiServer) -> None:
    """A watch of one node, and of one namespace, hears of nothing else."""
    revision = plain.put(node("n1"))
    with (
        WatchClient(plain, NODES, {"fieldSelector": "metadata.name=n1"}) as own,
        WatchClient(
            plain, "/api/v1/namespaces/b/services", {"resourceVersion": revision}
        ) as namespace,
    ):
        plain.put(node("n2"), node("n1", zone="z"))
        plain.put(service("x", namespace="a"), service("y", namespace="b"))
        assert [own.brief(), own.brief()] == [("ADDED", "n1"), ("MODIFIED", "n1")]
        assert namespace.brief() == ("ADDED", "y")


def test_bookmarks(plain: ApiServer) -> None:
    """Watches that allow bookmarks get them, with the revision and an empty object."""
    revision = plain.put(service(), node())
    query: Query = {"resourceVersion": revision}
    with (
        WatchClient(plain, SERVICES, {**query, "allowWatchBookmarks": "true"}) as watch,
        WatchClient(plain, SERVICES, query) as other,
    ):
        plain.put(endpoint_slice())
        assert plain.bookmark() == 1
        plain.put(service("next"))
        mark = watch.event()
        assert other.brief() == ("ADDED", "next")
    assert (mark["type"], mark["object"]["spec"]) == ("BOOKMARK", {})
    assert mark["object"]["metadata"] == {"resourceVersion": str(revision + 1)}


def test_time_sends_bookmarks_and_ends_watches() -> None:
    """A bookmark each interval and two seconds before timeoutSeconds, then a clean end."""
    settings = Settings(tls=False, second_s=0.01, bookmark_interval=8.0)
    with ApiServer(settings) as server:
        query: Query = {"timeoutSeconds": 20, "allowWatchBookmarks": "true"}
        started = time.monotonic()
        with WatchClient(server, NODES, query) as watch:
            kinds = [json.loads(line)["type"] for line in watch.rest().splitlines()]
        assert time.monotonic() - started >= 0.2
        assert kinds.count("BOOKMARK") == len(kinds) >= 3


def test_a_connection_outlives_its_watch(plain: ApiServer) -> None:
    """After a clean end the same connection takes another request."""
    plain.put(service("a"))
    with WatchClient(plain, SERVICES) as watch:
        plain.end_watches()
        watch.rest()
        watch.connection.request("GET", "/version", headers=bearer(plain.token))
        assert read_reply(watch.connection).status == 200
    assert plain.watches() == 0


def test_a_streaming_list(plain: ApiServer) -> None:
    """With sendInitialEvents come what is, a bookmark that says so, then changes."""
    plain.put(service("a"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    with WatchClient(plain, SERVICES, query) as watch:
        plain.put(service("b"))
        added, end, later = watch.event(), watch.event(), watch.event()
    assert [one["type"] for one in (added, end, later)] == ["ADDED", "BOOKMARK", "ADDED"]
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_streaming_list_not_older_than_now(plain: ApiServer) -> None:
    """It is answered at the revision reached, refused for a later one; unasked: no bookmark."""
    query: Query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "resourceVersion": plain.put(service("a")),
    }
    with WatchClient(plain, SERVICES, query) as watch:
        plain.put(service("b"))
        assert [watch.brief() for _ in range(2)] == [("ADDED", "a"), ("ADDED", "b")]
    later = {**query, "watch": "1", "resourceVersion": plain.revision + 1}
    assert get(plain, SERVICES, later).status == 504


def test_a_watch_of_a_compacted_revision(plain: ApiServer) -> None:
    """410 as an ERROR event in a 200, or as the status; live watches are not concerned."""
    revision = plain.put(service("a"))
    query: Query = {"resourceVersion": revision}
    with WatchClient(plain, SERVICES, query) as live:
        oldest = plain.compact()
        with WatchClient(plain, SERVICES, query) as watch:
            error = json.loads(watch.rest())
        oldest_by_status = plain.compact(answer="status")
        reply = get(plain, SERVICES, {**query, "watch": "1"})
        for good in ({}, {"resourceVersion": oldest_by_status}):
            with WatchClient(plain, SERVICES, good) as watch:
                assert watch.answer.status == 200
        plain.put(service("b"))
        assert live.brief() == ("ADDED", "b")
    assert error["object"]["message"] == f"too old resource version: {revision} ({oldest})"
    assert (error["type"], error["object"]["code"]) == ("ERROR", 410)
    assert (reply.status, reply.json["reason"]) == (410, "Expired")


def test_a_watch_from_the_future_hangs_until_then(plain: ApiServer) -> None:
    """Reference 07: no word, no bookmark, until the server is past the revision."""
    revision = plain.put(service("a"))
    query: Query = {"resourceVersion": revision + 2, "allowWatchBookmarks": "true"}
    with WatchClient(plain, SERVICES, query) as watch:
        plain.put(service("too-early"))
        plain.bookmark()
        plain.put(service("not-yet"))
        plain.put(service("heard"))
        assert watch.brief() == ("ADDED", "heard")


def test_a_client_that_leaves_is_forgotten(plain: ApiServer) -> None:
    """A closed watch is not counted any more."""
    with WatchClient(plain, SERVICES):
        wait_for(lambda: plain.watches("services") == 1, 2, "the watch to live")
    wait_for(lambda: plain.watches() == 0, 2, "the watch to end")


def test_events_fan_out_fast(plain: ApiServer) -> None:
    """From put to the last of ten watches: 2 ms in the median."""
    revision = plain.put(endpoint_slice())
    watches = [WatchClient(plain, SLICES, {"resourceVersion": revision}) for _ in range(10)]
    took = []
    for index in range(40):
        started = time.perf_counter()
        plain.put(endpoint_slice(addresses=(f"10.1.0.{index}",)))
        for watch in watches:
            watch.line()
        took.append(time.perf_counter() - started)
    for watch in watches:
        watch.__exit__()
    assert statistics.median(took) < 0.002, took
