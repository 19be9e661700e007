# SPDX-License-Identifier: Apache-2.0
"""What is said while the API server cannot be used, and how the source ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.errors import SourceError
from pyproxy.kube.api_config import ApiSettings, Credentials
from pyproxy.kube.api_pace import Backoff, Pace
from pyproxy.kube.api_troubles import SERVER, Troubles
from pyproxy.kube.client import ApiFailure, Line
from pyproxy.kube.events import Event, Trouble
from tests import builders
from tests.api.source.api_following import FAST, Followed, following, kubeconfig, without_garbage
from tests.api.source.scripted import Answer, Scripted, served, silence, status, stream, versioned

WEB = versioned(builders.service("web", cluster_ip="10.0.0.1"), 50)


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server with a node and a Service."""
    with served() as one:
        one.objects["nodes"] = [versioned(builders.node("n1"), 10)]
        one.objects["services"] = [WEB]
        yield one


@pytest.fixture
def settings(server: Scripted, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(kubeconfig(tmp_path / "config", server.url))


def test_a_server_that_is_down_is_waited_for(server: Scripted, settings: ApiSettings) -> None:
    """Restarted on its port, it is found again by itself; nothing was lost meanwhile."""
    with following(settings) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["services"]))
        before = time.time()
        server.close()
        found = source.until_trouble(SERVER, server.url, "Connection refused")
        assert before <= found.since <= time.time()
        source.until(source.events.empty)
        assert source.names() == {"web"}
        with served(server.port, server.objects) as again:
            source.until_calm()
            over = source.troubles[SERVER]
            assert over.since == found.since, "the end says when it began"
            source.until(lambda: bool(again._watches["services"]))
            assert source.names() == {"web"}
            assert source.deletions() == []
            ends = [e for e in source.seen if isinstance(e, Trouble) and not e.message]
            assert len(ends) == 1, "three threads, one trouble"


def test_a_server_that_is_down_at_first_is_waited_for(tmp_path: Path) -> None:
    """start() does not need the server."""
    with served() as server:
        port = server.port
    url = f"http://127.0.0.1:{port}"
    with following(ApiSettings(kubeconfig(tmp_path / "config", url))) as source:
        source.until_trouble(SERVER, "Connection refused")
        with served(port, {"services": [WEB]}):
            source.until_synced()
            source.until_calm()
            assert source.names() == {"web"}


def test_a_right_that_is_missing_is_named(server: Scripted, settings: ApiSettings) -> None:
    """403 says which verb on which resource to allow; the other kinds go on."""
    server.always("endpointslices", "list", status(403, "Forbidden"))
    with following(settings) as source:
        source.until_trouble(
            "API server: endpointslices", '"list"', '"endpointslices"', '"discovery.k8s.io"'
        )
        # so that it is this list that Synced waits for
        source.until(lambda: all(server.asked(one, "watch") for one in ("services", "nodes")))
        source.until(lambda: source.names() == {"web"})
        assert not source.synced
        server.script("endpointslices", "watch", status(403, "Forbidden"))
        server.always("endpointslices", "list", None)
        source.until_synced()
        source.until_trouble("API server: endpointslices", '"watch"')
        source.until_calm()


def test_a_token_that_rotates_on_disk_is_taken_up(server: Scripted, tmp_path: Path) -> None:
    """The old token gets 401; the same process goes on with the one in the file, untroubled."""
    token = tmp_path / "token"
    token.write_text("first\n")
    server.accepts = "Bearer first"
    config = kubeconfig(tmp_path / "config", server.url, {"tokenFile": "token", "token": "stale"})
    with following(ApiSettings(config)) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["services"]))
        server.accepts = "Bearer second"
        server.push_bytes("services", None)
        source.until_trouble(SERVER, "401", "refuses our credentials")
        assert source.names() == {"web"}
        token.write_text("second\n")
        source.until_calm()
        source.until(lambda: bool(server._watches["services"]))
        assert source.deletions() == []
        server.accepts = "Bearer third"
        token.write_text("third")
        before = len(source.seen)
        server.push_bytes("services", None)
        source.until(lambda: server.asked("services", "watch")[-1].authorization == "Bearer third")
        assert source.seen[before:] == [], "a rotation in time is no trouble"


def test_refused_credentials_run_not_hot(server: Scripted, settings: ApiSettings) -> None:
    """401 is answered by one more try with credentials read anew, then by waiting."""
    server.accepts = "Bearer another"
    least = 0.05
    with following(settings, FAST._replace(backoff_least_s=least, backoff_most_s=least)) as source:
        source.until(lambda: len(server.asked("nodes", "list")) >= 8)
        times = [one.at for one in server.asked("nodes", "list")]
        assert times[7] - times[0] >= 2 * least


@pytest.mark.parametrize(
    ("verb", "answer"),
    [("list", silence()), ("watch", silence()), ("watch", silence(b""))],
    ids=["list", "watch without a head", "watch"],
)
def test_stop_cuts_every_wait_short(
    server: Scripted, settings: ApiSettings, verb: str, answer: Answer
) -> None:
    """Whatever the threads are reading, they end within a second and put nothing any more."""
    for plural in ("services", "endpointslices", "nodes"):
        server.always(plural, verb, answer)
    source = Followed(settings, FAST._replace(answer_s=30.0, silence_s=30.0))
    source.source.start()
    source.until(lambda: len({one.plural for one in server.requests if one.verb == verb}) == 3)
    before = time.monotonic()
    source.source.stop()
    assert time.monotonic() - before < 1.0
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"api-services", "api-endpointslices", "api-nodes"}
    while not source.events.empty():
        source.take(source.events.get())
    assert source.troubles == {}, "an end is no trouble"
    source.source.stop()
    assert source.events.empty()


def test_stop_before_start_is_nothing(settings: ApiSettings) -> None:
    """A source that never ran can be stopped."""
    Followed(settings).source.stop()


def test_stop_cuts_backoff_short(tmp_path: Path) -> None:
    """A source that waits for its next try ends at once."""
    with served() as server:
        url = server.url
    pace = FAST._replace(backoff_least_s=60.0, backoff_most_s=60.0)
    with following(ApiSettings(kubeconfig(tmp_path / "config", url)), pace) as source:
        source.until_trouble(SERVER, "Connection refused")
        before = time.monotonic()
        source.source.stop()
        assert time.monotonic() - before < 0.5


def test_no_server_at_all_is_an_error(tmp_path: Path) -> None:
    """start() refuses what can never work, with a sentence that says what to do."""
    with pytest.raises(SourceError, match="give --kubeconfig"):
        Followed(ApiSettings(tmp_path / "nowhere")).source.start()
    with pytest.raises(SourceError, match="give --kubeconfig FILE"):
        Followed(ApiSettings(environ={})).source.start()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (silence(), "does not answer"),
        (stream(b"half a line", cut=True), "cannot be reached"),
        (status(500, "Broken"), "answers 500"),
        (None, "cannot be reached"),
    ],
    ids=["silent", "cut", "refused", "down"],
)
def test_failures_leave_no_garbage(
    server: Scripted, settings: ApiSettings, answer: Answer | None, message: str
) -> None:
    """A server that is down for days costs an agent without garbage collector nothing."""
    if answer:
        server.always("services", "watch", answer)
    else:
        server.close()
    line = Line(Credentials(settings, time.time), 1.0)
    with without_garbage():
        for _ in range(5):
            assert message in failed(line)


def failed(line: Line) -> str:
    """Ask for the services until it fails; return why."""
    try:
        with line.get("/api/v1/services", {"watch": "1"}, silence_s=0.02) as answer:
            list(answer.lines())
    except ApiFailure as failure:
        return failure.message
    return ""


@pytest.mark.parametrize("random_", [lambda: 0.0, lambda: 0.999, random.Random(1).random])
def test_waits_double_within_bounds(random_: Callable[[], float]) -> None:
    """Only the first wait may be none; later ones lie between the least and a doubling most."""
    pace = Pace()
    backoff = Backoff(pace, random_)
    for _ in range(2):
        waits = [backoff.next_s() for _ in range(2000)]
        assert 0 <= waits[0] <= pace.backoff_least_s
        most = [min(30.0, 0.1 * 2**n) for n in range(1, 11)]
        assert all(0.1 <= one <= top for one, top in zip(waits[1:11], most, strict=True))
        assert all(0.1 <= one <= 30.0 for one in waits[1:])
        backoff.reset()


def test_the_oldest_trouble_speaks_for_its_source() -> None:
    """Tellers come and go; a change is told once, and the last end ends it."""
    events: list[Event] = []
    now = iter(range(100, 200))
    troubles = Troubles(events.append, lambda: float(next(now)))
    troubles.begin("s", "one", "down")
    troubles.begin("s", "two", "down too")
    troubles.begin("s", "one", "down")
    troubles.begin("s", "two", "still down")
    assert events == [Trouble("s", "down", 100.0)]
    troubles.end("s", "one")
    assert events[1:] == [Trouble("s", "still down", 100.0)]
    troubles.end("s", "two")
    troubles.end("s", "two")
    troubles.end("t", "one")
    assert events[2:] == [Trouble("s", "", 100.0)]
    troubles.begin("s", "one", "silent", since=50.0)
    assert events[3:] == [Trouble("s", "silent", 50.0)]


def test_a_trouble_is_no_younger_when_who_noticed_it_first_is_done_first() -> None:
    """Several threads have one trouble; its end says when it began, whoever ends last."""
    told: list[Event] = []
    times = iter([10.0, 20.0])
    troubles = Troubles(told.append, lambda: next(times))
    troubles.begin("API server", "services", "is away")
    troubles.begin("API server", "nodes", "is away")
    troubles.end("API server", "services")
    troubles.end("API server", "nodes")
    assert told == [Trouble("API server", "is away", 10.0), Trouble("API server", "", 10.0)]
