# SPDX-License-Identifier: Apache-2.0
"""What is asked of the API server is counted, and so is how its watches end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kube.api_config import ApiSettings, Credentials
from pyproxy.kube.api_meters import DURATIONS, LISTS, REQUESTS, RESTARTS, ApiMeters
from pyproxy.kube.client import ApiFailure, Line
from pyproxy.kube.events import Change, Kind
from pyproxy.meters import Distribution, Labels, Spec
from tests import builders
from tests.api.source.api_following import Followed, following, kubeconfig
from tests.api.source.scripted import (
    Answer,
    Scripted,
    event,
    served,
    silence,
    status,
    status_json,
    stream,
    versioned,
)

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server with this node and a Service."""
    with served() as one:
        one.objects["nodes"] = [versioned(builders.node("n1"), 10)]
        one.objects["services"] = [versioned(builders.service("web"), 50)]
        yield one


@pytest.fixture
def settings(server: Scripted, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(kubeconfig(tmp_path / "config", server.url))


def read(meters: ApiMeters, spec: Spec) -> dict[Labels, float | Distribution]:
    """Return a metric's values."""
    return next(dict(each.values) for each in meters.read() if each.spec == spec)


def number(source: Followed, spec: Spec, *labels: str) -> float:
    """Return a counter's value."""
    found = read(source.meters, spec).get(labels, 0.0)
    assert isinstance(found, float | int)
    return found


def test_requests_are_counted_by_status_and_host(server: Scripted, settings: ApiSettings) -> None:
    """As client-go does (A20.12); a list takes a time, a watch takes none that says anything."""
    host = server.url.removeprefix("http://")
    with following(settings) as source:
        source.until_synced()
        source.until(lambda: number(source, REQUESTS, "200", "GET", host) == 6)
        took = read(source.meters, DURATIONS)["GET", host]
        assert isinstance(took, Distribution)
        assert sum(took.counts) == 3
        lists = read(source.meters, LISTS)
        assert lists == {("services",): 1, ("endpointslices",): 1, ("nodes",): 1}


def test_answers_that_are_errors_count_under_their_code(
    server: Scripted, settings: ApiSettings
) -> None:
    """And took their time, too."""
    server.script("services", "list", status(503, "ServiceUnavailable"))
    host = server.url.removeprefix("http://")
    with following(settings) as source:
        source.until_synced()
        assert number(source, REQUESTS, "503", "GET", host) == 1


def test_a_server_that_is_away_counts_as_no_answer(tmp_path: Path) -> None:
    """In client-go's word for it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        meters = ApiMeters()
        settings = ApiSettings(kubeconfig(tmp_path / "config", f"http://{host}"))
        line = Line(Credentials(settings, time.time), 0.5, meters)
        with pytest.raises(ApiFailure):
            line.get("/api/v1/services", {}, 0.5)
    assert read(meters, REQUESTS) == {("<error>", "GET", host): 1}
    assert list(read(meters, DURATIONS)) == [("GET", host)]


@pytest.mark.parametrize(
    ("cause", "script"),
    [
        ("ended", stream()),
        ("cut", stream(cut=True)),
        ("silent", silence()),
        ("expired", stream(event("ERROR", status_json(410, "Expired")))),
        ("expired", status(410, "Expired")),
        ("failing", stream(b"garbage\n")),
        ("forbidden", status(403, "Forbidden")),
    ],
    ids=["ended", "cut", "silent", "expired", "expired-at-once", "garbage", "forbidden"],
)
def test_watches_that_begin_anew_are_counted_by_their_cause(
    server: Scripted, settings: ApiSettings, cause: str, script: Answer
) -> None:
    """Once each; the others go on."""
    server.script("services", "watch", script)
    with following(settings) as source:
        source.until(lambda: number(source, RESTARTS, "services", cause) == 1)
        source.until(lambda: len(server.asked("services", "watch")) > 1)
        others = {labels for labels in read(source.meters, RESTARTS) if labels[0] == "services"}
        assert others == {("services", cause)}


def test_a_trigger_time_comes_with_the_change(server: Scripted, settings: ApiSettings) -> None:
    """From a watch; where nothing else has changed there is nothing to tell (A20.3)."""

    def piece(address: str, second: int) -> dict[str, object]:
        stamp = f"2026-11-21T21:00:{second:02}.5Z"
        document = builders.endpoint_slice(
            endpoints=[builders.endpoint_json(address)], annotations={TRIGGER: stamp}
        )
        return versioned(document, 100 + second)

    def times() -> list[float]:
        return [
            each.trigger_time
            for each in source.seen
            if isinstance(each, Change) and each.kind is Kind.ENDPOINT_SLICE
        ]

    with following(settings) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["endpointslices"]))
        server.push("endpointslices", "ADDED", piece("10.0.0.1", 1))
        server.push("endpointslices", "MODIFIED", piece("10.0.0.1", 2))
        server.push("endpointslices", "MODIFIED", piece("10.0.0.2", 3))
        source.until(lambda: len(times()) > 1)
        assert times() == [1795294801.5, 1795294803.5]
