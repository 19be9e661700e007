# SPDX-License-Identifier: Apache-2.0
"""Events about service ports that are not served: posted once, never urgent, never a burden."""

from __future__ import annotations

import logging
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pyproxy.kube.announcer import MOST_NOTICES, Announcer
from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.api_pace import Pace
from pyproxy.kube.ending import STOP_S
from pyproxy.model import Protocol, ServicePortName
from tests.api.source.api_following import FAST, kubeconfig, without_garbage
from tests.apiserver import ApiServer, Settings
from tests.apiserver.settings import Seen
from tests.lab.waiting import wait_for

NOTE = "service port default/web:sctp/SCTP is not served"
WEB = ServicePortName("default", "web", "sctp", Protocol.SCTP)
UID = "3b1f8e3c-0000-4000-8000-000000000001"
TRIES = 4
QUICK = FAST._replace(event_least_s=0.01, event_most_s=0.03, event_tries=TRIES)
BOUND_S = 5.0
THREAD = "api-events"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server that takes Events."""
    with ApiServer(Settings(tls=False)) as one:
        yield one


@pytest.fixture
def settings(server: ApiServer, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(server.kubeconfig(tmp_path / "config"))


@pytest.fixture
def announcer(settings: ApiSettings) -> Iterator[Announcer]:
    """Who posts there; it ends within its time."""
    yield from announcing(settings)


def announcing(settings: ApiSettings, node: str = "n1", pace: Pace = QUICK) -> Iterator[Announcer]:
    """Give an announcer, and stop it."""
    one = Announcer(settings, node, pace=pace)
    yield one
    before = time.monotonic()
    one.stop()
    assert time.monotonic() - before < STOP_S + 0.1
    assert THREAD not in threads()


def threads() -> set[str]:
    """Return the names of the threads that run."""
    return {thread.name for thread in threading.enumerate()}


def tell(announcer: Announcer, wanted: Mapping[ServicePortName, str]) -> None:
    """Tell of service ports of Services with one uid."""
    announcer.tell(wanted, lambda _: UID)


def posts(server: ApiServer) -> list[Seen]:
    """Return the Events that were sent."""
    return server.asked("events", "create")


def names(number: int) -> dict[ServicePortName, str]:
    """Return so many service ports, each with its sentence."""
    ports = (WEB._replace(name=f"s{n}") for n in range(number))
    return {port: f"service port {port} is not served" for port in ports}


def await_calm() -> None:
    """Wait until there is no more to post."""
    wait_for(lambda: THREAD not in threads(), BOUND_S, "the thread to end")


def test_an_event_says_all_there_is(server: ApiServer, announcer: Announcer) -> None:
    """It has the fields of client-go's recorder, in the namespace of the Service."""
    before = time.time()
    tell(announcer, {WEB: NOTE})
    await_calm()
    (event,) = server.events
    assert event["apiVersion"] == "events.k8s.io/v1"
    assert event["metadata"]["namespace"] == "default"
    assert event["metadata"]["name"].startswith("web.")
    service = {"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "web"}
    assert event["regarding"] == {**service, "uid": UID}
    assert (event["type"], event["reason"], event["note"]) == ("Warning", "PortNotServed", NOTE)
    assert (event["reportingController"], event["reportingInstance"]) == ("pyproxy", "n1")
    assert event["action"] == "ServePort"
    stamp = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert event["eventTime"].startswith(stamp[:-1])
    assert len(event["eventTime"]) == len("2006-01-02T15:04:05.000000Z")
    assert posts(server)[0].headers["content-type"] == "application/json"


def test_an_event_is_posted_once(server: ApiServer, announcer: Announcer) -> None:
    """However often it is told, until it went away or says something else."""
    for _ in range(3):
        tell(announcer, {WEB: NOTE})
        await_calm()
    assert len(posts(server)) == 1
    tell(announcer, {WEB: f"{NOTE} by 80"})
    await_calm()
    assert len(posts(server)) == 2
    tell(announcer, {})
    tell(announcer, {WEB: f"{NOTE} by 80"})
    await_calm()
    assert [one.status for one in posts(server)] == [201, 201, 409]


def test_a_service_that_is_made_anew_gets_an_event_of_its_own(
    server: ApiServer, announcer: Announcer
) -> None:
    """The uid is what `kubectl describe` asks by."""
    tell(announcer, {WEB: NOTE})
    await_calm()
    announcer.tell({WEB: NOTE}, lambda _: "another")
    await_calm()
    assert [one["regarding"]["uid"] for one in server.events] == [UID, "another"]


def test_a_uid_that_is_unknown_is_left_out(server: ApiServer, announcer: Announcer) -> None:
    """The Event still names the Service."""
    announcer.tell({WEB: NOTE}, lambda _: "")
    await_calm()
    (event,) = server.events
    assert "uid" not in event["regarding"]


def test_what_is_longer_than_events_may_be(server: ApiServer, settings: ApiSettings) -> None:
    """It is cut, in whole characters."""
    for announcer in announcing(settings, node="n" * 253):
        tell(announcer, {WEB: "é" * 1000})
        await_calm()
    (event,) = server.events
    assert event["note"] == "é" * 512
    assert event["reportingInstance"] == "n" * 128


def test_many_nodes_make_one_event(
    server: ApiServer, settings: ApiSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """The others get 409, and nobody hears of it."""
    for number in range(5):
        for announcer in announcing(settings, node=f"n{number}"):
            tell(announcer, {WEB: NOTE})
            await_calm()
    assert sorted(one.status for one in posts(server)) == [201, 409, 409, 409, 409]
    assert len(list(server.events)) == 1
    assert not caplog.records


def test_a_right_that_is_missing_is_named_once(
    server: ApiServer, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """403 is not tried again for that Event; the log says which right to give."""
    server.forbid("events", "create")
    tell(announcer, names(5))
    await_calm()
    assert [one.status for one in posts(server)] == [403] * 5
    (line,) = caplog.messages
    assert 'allow "create" of "events" in API group "events.k8s.io"' in line
    server.permit("events", "create")
    tell(announcer, {**names(5), WEB: NOTE})
    await_calm()
    assert [one["note"] for one in server.events] == [NOTE]


@pytest.mark.parametrize("status", [400, 404, 410, 422])
def test_what_never_passes_is_not_tried_again(
    server: ApiServer, announcer: Announcer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """One request, one line; 404 may be a namespace that is gone, too."""
    server.fault("answer", "events", times=None, status=status)
    tell(announcer, {WEB: NOTE})
    await_calm()
    assert [one.status for one in posts(server)] == [status]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_need_is_asked_again(
    server: ApiServer, announcer: Announcer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """The Event comes late and without a word."""
    server.fault("answer", "events", times=TRIES - 1, status=status)
    tell(announcer, {WEB: NOTE})
    await_calm()
    assert [one.status for one in posts(server)] == [status] * (TRIES - 1) + [201]
    assert not caplog.records


@pytest.mark.parametrize("status", [429, 503])
def test_even_patience_ends(
    server: ApiServer, announcer: Announcer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """After so many failures the Event is given up, with one line."""
    server.fault("answer", "events", times=None, status=status)
    tell(announcer, {WEB: NOTE})
    await_calm()
    assert [one.status for one in posts(server)] == [status] * TRIES
    assert len(caplog.records) == 1


def test_retry_after_is_honoured(server: ApiServer, settings: ApiSettings) -> None:
    """The server says for how long it wants to be left alone."""
    server.fault("answer", "events", status=429, retry_after=1)
    for announcer in announcing(settings, pace=QUICK._replace(event_most_s=2.0)):
        started = time.monotonic()
        tell(announcer, {WEB: NOTE})
        await_calm()
        assert time.monotonic() - started >= 1.0
    assert [one.status for one in posts(server)] == [429, 201]


def test_a_token_that_rotated_is_taken_up(
    server: ApiServer, settings: ApiSettings, announcer: Announcer
) -> None:
    """As the sources do it: credentials that are refused are read anew."""
    tell(announcer, {WEB: NOTE})
    await_calm()
    server.rotate_token()
    assert settings.kubeconfig
    server.kubeconfig(settings.kubeconfig)
    tell(announcer, {WEB._replace(name="other"): NOTE})
    await_calm()
    assert len(list(server.events)) == 2


@pytest.mark.parametrize("mute", [False, True], ids=["down", "mute"])
def test_a_server_that_is_away_delays_nothing(
    server: ApiServer, announcer: Announcer, caplog: pytest.LogCaptureFixture, *, mute: bool
) -> None:
    """tell() returns at once, stop() in its time, and the thread ends by itself in the end."""
    server.stop(mute=mute)
    started = time.monotonic()
    for _ in range(100):
        tell(announcer, {WEB: NOTE})
    assert time.monotonic() - started < 0.1
    await_calm()
    assert len(caplog.records) == 1


def test_an_event_comes_when_the_server_is_back(server: ApiServer, settings: ApiSettings) -> None:
    """An API server that restarts costs no Event."""
    server.stop()
    for announcer in announcing(settings, pace=QUICK._replace(event_tries=1000)):
        tell(announcer, {WEB: NOTE})
        time.sleep(0.1)
        server.start()
        await_calm()
    assert len(list(server.events)) == 1


@pytest.mark.parametrize("waits_for", ["its turn", "an answer"])
def test_stop_cuts_every_wait_short(
    server: ApiServer, settings: ApiSettings, waits_for: str
) -> None:
    """Whatever it is; announcing() looks at the clock."""
    server.fault("stall", "events", times=None)
    slow = FAST if waits_for == "its turn" else QUICK
    for announcer in announcing(settings, pace=slow._replace(answer_s=30.0)):
        tell(announcer, {WEB: NOTE})
        if waits_for == "an answer":
            wait_for(lambda: bool(posts(server)), BOUND_S, "the request")
    tell(announcer, {WEB: NOTE, **names(2)})
    assert THREAD not in threads(), "nothing begins after stop()"


def test_nothing_to_say_costs_nothing(announcer: Announcer) -> None:
    """Most clusters have no such ports: no thread, no credentials read."""
    tell(announcer, {})
    assert THREAD not in threads()
    assert not announcer._line.server


def test_what_went_before_its_turn_is_not_posted(server: ApiServer, settings: ApiSettings) -> None:
    """A port that was mended in time is none to complain about."""
    for announcer in announcing(settings, pace=QUICK._replace(event_least_s=0.3)):
        tell(announcer, {WEB: NOTE})
        tell(announcer, {})
        await_calm()
    assert not posts(server)


def test_a_flood_is_bounded(server: ApiServer, settings: ApiSettings) -> None:
    """Ten thousand ports: a thousand places, a megabyte, and few requests, as 409 slows down."""
    wanted = names(10_000)
    server.fault("answer", "events", times=None, status=409)
    for announcer in announcing(settings, pace=FAST._replace(event_least_s=0.02)):
        tracemalloc.start()
        started = time.monotonic()
        for _ in range(10):
            tell(announcer, wanted)
        spent = time.monotonic() - started
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        time.sleep(0.5)
        assert len(announcer._pending | announcer._settled) == MOST_NOTICES
    assert used < 1 << 20
    assert spent < 2.0, "tracing makes it ten times slower"
    assert 1 <= len(posts(server)) <= 8, "20, 40, 80 ms... apart"


def test_a_place_is_kept_and_handed_on(server: ApiServer, settings: ApiSettings) -> None:
    """What is known stays so while others come and go; who waited comes in then."""
    server.fault("answer", "events", times=None, status=409)
    for announcer in announcing(settings, pace=FAST):
        tell(announcer, names(MOST_NOTICES))
        first = announcer._pending
        tell(announcer, {WEB: NOTE, **names(MOST_NOTICES)})
        assert announcer._pending == first
        tell(announcer, {WEB: NOTE, **names(MOST_NOTICES - 1)})
        assert {one.name.name for one in announcer._pending - first} == {WEB.name}


def test_a_calm_makes_it_quick_again(server: ApiServer, settings: ApiSettings) -> None:
    """One that was told 409 waits longer the next time, unless that is long ago."""
    pace = QUICK._replace(event_least_s=0.2, event_most_s=10.0)
    waits = []
    for calm_s in (60.0, 0.0):
        for announcer in announcing(settings, pace=pace._replace(event_calm_s=calm_s)):
            server.fault("answer", "events", status=409)
            tell(announcer, {WEB: NOTE})
            await_calm()
            started = time.monotonic()
            tell(announcer, {WEB: f"{NOTE} {calm_s}"})
            await_calm()
            waits.append(time.monotonic() - started)
    assert waits[0] >= 0.2 > waits[1] - 0.1


def test_what_nobody_foresaw_ends_no_agent(
    server: ApiServer,
    announcer: Announcer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thread that ends with an exception would end the agent: it is logged and left."""

    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(announcer._line, "post", fail)
    tell(announcer, {WEB: NOTE})
    await_calm()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert not posts(server)


def test_failures_leave_no_garbage(tmp_path: Path) -> None:
    """The agent runs without the garbage collector at first."""
    config = kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    for announcer in announcing(ApiSettings(config)):
        with without_garbage():
            tell(announcer, {WEB: NOTE})
            await_calm()
