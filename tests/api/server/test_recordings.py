# SPDX-License-Identifier: Apache-2.0
"""The recorded requests get the recorded answers, byte for byte.

The cluster's history is played again at the recorded revisions, so that only ids and dates in the
headers differ. The recordings were made with curl, to which the API server writes prettily.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.api.server.asking import Reply, WatchClient, bearer, get
from tests.api.server.recordings import FOLDER, Recording, recording
from tests.apiserver import ApiServer, Settings
from tests.builders import Json

CURL = {"User-Agent": "curl/8.5.0"}
SINGULAR = {
    "audit-id",
    "date",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
}
# How HTTP/1.1 says what HTTP/2 has frames for.
FRAMING = {"transfer-encoding"}
COMPACTED = 25008


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server at the state of the first recording."""
    with ApiServer(Settings(future_list_wait=0.0)) as started:
        objects = [one for number in (1, 2, 3, 12) for one in recording(number).objects]
        for one in sorted(objects, key=revision_of):
            started.advance(revision_of(one) - 1)
            started.put(one)
        started.compact(to=COMPACTED)
        yield started


def revision_of(one: Json) -> int:
    """Return the resourceVersion of an object."""
    return int(one["metadata"]["resourceVersion"])


def replay(server: ApiServer, recorded: Recording, token: str = "") -> Reply:
    """Ask what was asked."""
    headers = CURL | bearer(token or server.token)
    return get(server, recorded.path, recorded.query, headers)


def same_headers(headers: dict[str, str], recorded: Recording) -> bool:
    """Say whether the same headers are there, and equal but for ids and dates."""
    wanted = {name: value for name, value in recorded.headers.items() if name not in SINGULAR}
    found = {name: value for name, value in headers.items() if name not in SINGULAR | FRAMING}
    return wanted == found and headers.keys() - FRAMING == recorded.headers.keys()


def assert_same(reply: Reply, recorded: Recording) -> None:
    """Compare status, headers and every byte of the body."""
    assert reply.status == recorded.status
    assert same_headers(reply.headers, recorded), reply.headers
    assert reply.body.decode() == recorded.body.decode()


def open_watch(server: ApiServer, recorded: Recording) -> WatchClient:
    """Begin the recorded watch and compare its head."""
    watch = WatchClient(server, recorded.path, recorded.query, CURL)
    headers = {name.lower(): value for name, value in watch.answer.getheaders()}
    assert watch.answer.status == recorded.status
    assert same_headers(headers, recorded), headers
    assert headers["transfer-encoding"] == "chunked"
    return watch


@pytest.mark.parametrize(
    ("number", "revision"),
    [(1, 43324), (2, 43324), (3, 43345), (8, 44900), (9, 44900), (12, 44909)],
)
def test_a_recorded_answer(server: ApiServer, number: int, revision: int) -> None:
    """Pages, lists from the cache and of the future, expired pages, and the node."""
    server.advance(revision)
    assert_same(replay(server, recording(number)), recording(number))


def test_a_page_does_not_see_later_changes(server: ApiServer) -> None:
    """The second page is of the first one's state, whatever happened meanwhile."""
    server.advance(43324)
    server.put(copy.deepcopy(recording(2).objects[0]) | {"spec": {"clusterIP": "10.0.0.1"}})
    server.delete("Service", "transcript", "web-1")
    assert_same(replay(server, recording(2)), recording(2))


def test_a_recorded_watch(server: ApiServer) -> None:
    """04: changed, out of the selector, in again, deleted, bookmark."""
    recorded = recording(4)
    server.advance(43345)
    changed, leaving, back, _ = (recorded.event(index) for index in range(4))
    unlabelled = copy.deepcopy(leaving)
    del unlabelled["metadata"]["labels"]["t"], unlabelled["metadata"]["generation"]
    with open_watch(server, recorded) as watch:
        for one in (changed, unlabelled, back):
            server.advance(revision_of(one) - 1)
            server.put(one)
        server.advance(43496)
        server.delete("EndpointSlice", "transcript", "web-3-a")
        server.advance(43761)
        assert server.bookmark() == 1
        server.end_watches()
        assert watch.rest().decode() == recorded.body.decode()


def test_the_recorded_streaming_list(server: ApiServer) -> None:
    """05: what there is, the bookmark that ends the list, bookmarks."""
    recorded = recording(5)
    server.delete("EndpointSlice", "transcript", "web-3-a")
    for index in range(2):
        one = recorded.event(index)
        server.advance(revision_of(one) - 1)
        server.put(one)
    server.advance(43935)
    with open_watch(server, recorded) as watch:
        for revision in (43980, 44103):
            server.advance(revision)
            server.bookmark()
        server.end_watches()
        assert watch.rest().decode() == recorded.body.decode()


def test_the_recorded_watch_of_a_revision_that_is_gone(server: ApiServer) -> None:
    """06: an ERROR event in an answer of status 200, then the end."""
    with open_watch(server, recording(6)) as watch:
        assert watch.rest() == recording(6).body


def test_the_recorded_watch_from_the_future(server: ApiServer) -> None:
    """07: headers, and not a word."""
    with open_watch(server, recording(7)) as watch:
        server.put(recording(5).event(0))
        server.end_watches()
        assert watch.rest() == recording(7).body == b""


def test_the_recorded_unauthorized(server: ApiServer) -> None:
    """10: a wrong token."""
    assert_same(replay(server, recording(10), "wrong"), recording(10))


def test_the_recorded_forbidden(server: ApiServer) -> None:
    """11: a user without the right."""
    server.allow_token("of-nobody", "nobody")
    server.forbid("services", user="nobody")
    assert_same(replay(server, recording(11), "of-nobody"), recording(11))


def test_every_recording_is_replayed() -> None:
    """A recording that is added needs a test here."""
    assert sorted(file.name[:2] for file in FOLDER.iterdir()) == [f"{n:02}" for n in range(1, 13)]
