# SPDX-License-Identifier: Apache-2.0
"""What the API source makes of watches that end, fail, fall silent or lie."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.events import Trouble
from tests import builders
from tests.api.source.api_following import FAST, Followed, following, kubeconfig
from tests.api.source.scripted import (
    Json,
    Scripted,
    bookmark,
    event,
    page,
    served,
    silence,
    status,
    status_json,
    stream,
    versioned,
)

SERVICES = "API server: services"
GONE = event("ERROR", status_json(410, "Expired"))


def web(ip: int, version: int, name: str = "web") -> Json:
    """Return the Service 10.0.0.`ip`."""
    return versioned(builders.service(name, cluster_ip=f"10.0.0.{ip}"), version)


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server with this node and the Service web 10.0.0.1."""
    with served() as one:
        one.objects["nodes"] = [versioned(builders.node("n1"), 10)]
        one.objects["services"] = [web(1, 50)]
        yield one


@pytest.fixture
def settings(server: Scripted, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(kubeconfig(tmp_path / "config", server.url))


@pytest.fixture
def source(settings: ApiSettings) -> Iterator[Followed]:
    """A source that follows it."""
    with following(settings) as one:
        one.until_synced()
        yield one


def watched(source: Followed, server: Scripted, count: int = 1) -> None:
    """Wait until the services have been watched so many times, and are now."""
    source.until(lambda: len(server.asked("services", "watch")) >= count)
    source.until(lambda: bool(server._watches["services"]))


def told(source: Followed) -> list[Trouble]:
    """Return the troubles that were told about services, their ends included."""
    return [one for one in source.seen if isinstance(one, Trouble) and one.source == SERVICES]


def positions(server: Scripted) -> list[str]:
    """Return where the watches of services began."""
    return [one.query["resourceVersion"] for one in server.asked("services", "watch")]


def test_events_are_changes(server: Scripted, source: Followed) -> None:
    """ADDED, MODIFIED and DELETED take effect; what changes nothing that is used is not told."""
    watched(source, server)
    server.push("services", "ADDED", web(7, 101, "new"))
    server.push("services", "MODIFIED", web(2, 102))
    source.until(lambda: source.names() == {"web", "new"} and source.ip("web") == 2)
    heartbeat = web(2, 103)
    heartbeat["metadata"]["annotations"] = {"seen": "now"}
    server.push("services", "MODIFIED", heartbeat)
    before = len(source.seen)
    server.push("services", "DELETED", web(2, 104))
    source.until(lambda: source.names() == {"new"})
    assert len(source.seen) == before + 1
    query = server.asked("services", "watch")[0].query
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600


def test_an_object_that_is_not_proxied_any_more_goes(server: Scripted, source: Followed) -> None:
    """A Service that turns headless is as good as deleted."""
    watched(source, server)
    server.push("services", "MODIFIED", versioned(builders.service("web", cluster_ip="None"), 101))
    source.until(lambda: source.names() == set())


@pytest.mark.parametrize("clean", [True, False], ids=["ended", "cut"])
def test_a_dropped_watch_resumes_where_it_was(
    server: Scripted, settings: ApiSettings, *, clean: bool
) -> None:
    """After an end in the middle, the next watch begins at the last event or bookmark.

    A server that may have been restored meanwhile is asked where it is.
    """
    script_lists(server, 140)
    chunks = (event("MODIFIED", web(2, 101)), bookmark("services", 140))
    server.script("services", "watch", stream(*chunks, cut=not clean))
    with following(settings) as source:
        watched(source, server, 2)
        assert positions(server) == ["100", "140"]
        limits = [one.query["limit"] for one in server.asked("services", "list")]
        assert limits == (["500"] if clean else ["500", "1"])
        assert (source.ip("web"), source.troubles) == (2, {})


def script_lists(server: Scripted, version: int) -> None:
    """Have the server go on from its first list to a version."""
    server.script("services", "list", page([web(1, 50)], 100), page([web(2, 101)], version))


def test_half_a_line_is_not_taken_for_a_whole(server: Scripted, settings: ApiSettings) -> None:
    """A line that is cut off is dropped, and comes again in the next watch."""
    script_lists(server, 101)
    half = event("MODIFIED", web(3, 102))[:90]
    server.script("services", "watch", stream(event("MODIFIED", web(2, 101)), half, cut=True))
    with following(settings) as source:
        watched(source, server, 2)
        assert positions(server) == ["100", "101"]
        assert source.ip("web") == 2
        server.push_bytes("services", event("MODIFIED", web(3, 102)))
        source.until(lambda: source.ip("web") == 3)


def test_lines_may_arrive_in_pieces(server: Scripted, source: Followed) -> None:
    """Chunks are not lines."""
    watched(source, server)
    text = event("MODIFIED", web(2, 101)) + b"\n" + event("MODIFIED", web(3, 102))
    for start in range(0, len(text), 57):
        server.push_bytes("services", text[start : start + 57])
    source.until(lambda: source.ip("web") == 3)


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff}{ <html>\n", b"[]\n", b'{"type": 5}\n', b"[" * 100_000 + b"\n"],
    ids=["bytes", "list", "types", "deep"],
)
def test_garbage_costs_a_new_watch_and_no_state(
    server: Scripted, settings: ApiSettings, garbage: bytes
) -> None:
    """What is no event ends the watch, is said, and the next one resumes."""
    server.script("services", "watch", stream(event("MODIFIED", web(2, 101)), garbage))
    with following(settings) as source:
        source.until_trouble(SERVICES, "garbage")
        watched(source, server, 2)
        assert positions(server) == ["100", "101"]
        source.until_calm()
        assert (source.ip("web"), source.deletions()) == (2, [])


def test_garbage_without_end_is_listed_anew_at_leisure(
    server: Scripted, settings: ApiSettings
) -> None:
    """Where every watch is garbage, lists go on to bring changes, and nothing runs hot."""
    server.always("services", "watch", stream(b"garbage\n"))
    with following(settings) as source:
        began = source.until_trouble(SERVICES, "garbage").since
        server.objects["services"] = [web(9, 200)]
        source.until(lambda: source.ip("web") == 9)
        assert source.troubles[SERVICES].since == began, "one trouble, since its beginning"
        server.always("services", "watch", None)
        source.until_calm()


def test_410_as_status_and_as_event_mean_a_new_list(
    server: Scripted, settings: ApiSettings
) -> None:
    """Both forms of 410 list anew; meanwhile all stays, and afterwards what is gone is gone."""
    server.script("services", "list", page([web(1, 50), web(2, 51, "old")], 100))
    server.script("services", "watch", status(410, "Expired"), stream(GONE))
    with following(settings) as source:
        watched(source, server, 3)
        assert len(server.asked("services", "list")) == 3
        assert source.names() == {"web"}
        assert source.deletions() == ["old"]
        assert source.troubles == {}


def test_410_without_end_is_said_and_runs_not_hot(server: Scripted, settings: ApiSettings) -> None:
    """A server whose every watch is expired gets a bounded number of requests."""
    server.always("services", "watch", stream(GONE))
    with following(settings, FAST._replace(backoff_least_s=0.05, backoff_most_s=0.1)) as source:
        source.until_trouble(SERVICES, "said Expired")
        requests = server.asked("services", "watch")
        spans = [b.at - a.at for a, b in pairwise(requests[1:])]
        assert min(spans) >= 0.05
        assert source.names() == {"web"}


def test_a_silent_watch_is_resumed(server: Scripted, settings: ApiSettings) -> None:
    """A watch that spoke and then fell silent is dead: said with since when, and resumed."""
    script_lists(server, 101)
    server.script("services", "watch", silence(event("MODIFIED", web(2, 101))))
    with following(settings) as source:
        source.until(lambda: source.ip("web") == 2)
        found = source.until_trouble(SERVICES, "said nothing for 0 s")
        assert 0.15 < source.source._clocks.now() - found.since < 2, "since the last word"
        watched(source, server, 2)
        assert positions(server) == ["100", "101"]
        source.until_calm()
        assert source.ip("web") == 2


def test_a_quiet_cluster_is_no_trouble(server: Scripted, settings: ApiSettings) -> None:
    """A watch that never said a word is resumed after a look at where the server is."""
    server.script("services", "watch", silence(b""))
    with following(settings) as source:
        watched(source, server, 2)
        assert positions(server) == ["100", "100"]
        limits = [one.query["limit"] for one in server.asked("services", "list")]
        assert limits == ["500", "1"]
        assert told(source) == []


def test_a_watch_from_the_future_is_noticed(server: Scripted, settings: ApiSettings) -> None:
    """A server restored from a backup is behind us and silent; then everything is listed again."""
    server.version = 99999999
    server.script("services", "watch", silence(b""))
    with following(settings) as source:
        source.until_synced()
        # in this order: who lists in between must not find what was there before
        server.objects["services"] = [web(5, 40)]
        server.version = 44900
        source.until_trouble(SERVICES, "resourceVersion 44900 and was at 99999999")
        # its resourceVersion is older, and it counts
        source.until(lambda: source.ip("web") == 5)
        watched(source, server, 2)
        assert positions(server) == ["99999999", "44900"]
        source.until_calm()


def test_a_server_that_was_restored_and_goes_on_is_noticed(
    server: Scripted, settings: ApiSettings
) -> None:
    """Once it has passed where we were, nothing else tells its history from the one we know."""
    script_lists(server, 100)
    server.script("services", "watch", stream(event("MODIFIED", web(2, 10000)), cut=True))
    server.version = 9000
    server.objects["services"] = [web(3, 8000)]
    with following(settings) as source:
        source.until_trouble(SERVICES, "is at resourceVersion 100 and was at 10000")
        source.until(lambda: source.ip("web") == 3)
        watched(source, server, 2)
        assert positions(server) == ["100", "9000"]
        source.until_calm()


def test_watches_that_are_held_back_are_no_reason_to_know_nothing(
    server: Scripted, settings: ApiSettings
) -> None:
    """A proxy that buffers what a watch says: everything is listed in turns, and that is said."""
    server.script("services", "watch", *[silence(b"")] * 3)
    with following(settings) as source:
        source.until_synced()
        server.version = 200
        server.objects["services"] = [web(2, 150)]
        source.until_trouble(SERVICES, "has said nothing in 2 watches, not even a bookmark")
        source.until(lambda: source.ip("web") == 2)
        watched(source, server, 4)
        assert source.troubles[SERVICES].message, "until a watch says something"
        server.push("services", "MODIFIED", web(3, 201))
        source.until(lambda: source.ip("web") == 3)
        source.until(lambda: not source.troubles[SERVICES].message)


def test_a_version_too_large_means_a_new_list(server: Scripted, settings: ApiSettings) -> None:
    """A server that says that it is behind us (504) is believed."""
    causes = {"causes": [{"reason": "ResourceVersionTooLarge"}], "retryAfterSeconds": 1}
    server.script("services", "watch", status(504, "Timeout", details=causes))
    with following(settings) as source:
        watched(source, server, 2)
        assert len(server.asked("services", "list")) == 2


def test_old_news_is_no_news(server: Scripted, source: Followed) -> None:
    """An event older than what is known of its object takes no step back, nor revives it."""
    watched(source, server)
    server.push("services", "MODIFIED", web(3, 103))
    server.push("services", "MODIFIED", web(2, 102))
    server.push("services", "DELETED", web(2, 102))
    server.push("services", "ADDED", web(7, 104, "gone"))
    server.push("services", "DELETED", web(7, 106, "gone"))
    server.push("services", "MODIFIED", web(7, 105, "gone"))
    server.push("services", "ADDED", web(9, 107, "last"))
    source.until(lambda: "last" in source.names())
    assert source.names() == {"web", "last"}
    assert source.ip("web") == 3
    assert source.deletions() == ["gone"]


def test_versions_that_are_no_numbers_cannot_be_compared(
    server: Scripted, source: Followed
) -> None:
    """A resourceVersion may be any text: whatever comes later counts."""
    watched(source, server)
    thing = web(3, 0)
    thing["metadata"]["resourceVersion"] = "zz"
    server.push("services", "MODIFIED", thing)
    source.until(lambda: source.ip("web") == 3)
    server.push("services", "MODIFIED", web(4, 1))
    source.until(lambda: source.ip("web") == 4)


def test_foreign_kinds_are_reported_and_ignored(server: Scripted, source: Followed) -> None:
    """A Pod in a watch of Services is none; a later list ends the report."""
    watched(source, server)
    server.push("services", "ADDED", {**web(9, 101, "pod"), "kind": "Pod"})
    server.push("services", "DELETED", {**web(1, 102), "kind": "Pod"})
    server.push("services", "LATER", web(9, 103, "kind-of-event-to-come"))
    server.push("services", "MODIFIED", web(2, 104))
    source.until(lambda: source.ip("web") == 2)
    assert source.names() == {"web"}
    assert "it is ignored" in source.reports["Pod among Services"]
    server.push_bytes("services", GONE)
    source.until(lambda: source.reports["Pod among Services"] == "")


@pytest.mark.parametrize(
    ("code", "asks"),
    [
        (429, lambda: "1"),
        (503, lambda: "1"),
        # RFC 9110 10.2.3: a date does as well
        (503, lambda: email.utils.formatdate(time.time() + 5, usegmt=True)),
        # more digits than int() takes
        (429, lambda: "9" * 5000),
    ],
    ids=["429", "503", "date", "digits"],
)
def test_retry_after_is_honoured(
    server: Scripted, settings: ApiSettings, code: int, asks: Callable[[], str]
) -> None:
    """A server that asks for a pause gets it, and the resumed watch loses nothing."""
    server.script("services", "watch", status(code, "Busy", ("Retry-After", asks())))
    with following(settings) as source:
        source.until_trouble(SERVICES, f"answers {code}")
        watched(source, server, 2)
        first, second = server.asked("services", "watch")
        assert second.at - first.at >= FAST.retry_after_most_s
        assert positions(server) == ["100", "100"]
        source.until_calm()
        assert source.ip("web") == 1


def test_errors_at_once_run_not_hot(server: Scripted, settings: ApiSettings) -> None:
    """However fast a server fails, it is asked at most once a shortest wait."""
    server.always("services", "list", status(500, "Broken"))
    least = 0.03
    with following(settings, FAST._replace(backoff_least_s=least, backoff_most_s=least)) as source:
        source.until(lambda: len(server.asked("services", "list")) >= 8)
        times = [one.at for one in server.asked("services", "list")]
        assert times[-1] - times[0] >= (len(times) - 2) * least
        assert len([one for one in source.seen if isinstance(one, Trouble)]) == 1, "told once"


def test_watches_that_end_at_once_run_not_hot(server: Scripted, settings: ApiSettings) -> None:
    """A server that ends every watch is said to, is asked slowly, and is polled by lists."""
    server.always("services", "watch", stream())
    least = 0.03
    with following(settings, FAST._replace(backoff_least_s=least, backoff_most_s=least)) as source:
        source.until_trouble(SERVICES, "watches in a row at once")
        server.objects["services"] = [web(4, 200)]
        source.until(lambda: source.ip("web") == 4)
        times = [one.at for one in server.asked("services", "watch")]
        assert times[-1] - times[0] >= (len(times) - 2) * least
        server.always("services", "watch", None)
        source.until_calm()
        assert source.ip("web") == 4


def test_one_object_may_fill_megabytes(server: Scripted, source: Followed) -> None:
    """A line as long as etcd allows is an event like any other."""
    watched(source, server)
    thing = web(2, 101)
    thing["metadata"]["annotations"] = {"big": "x" * 1_500_000}
    server.push("services", "MODIFIED", thing)
    source.until(lambda: source.ip("web") == 2)
    assert json.dumps(source.reports) == "{}"
