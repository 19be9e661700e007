# SPDX-License-Identifier: Apache-2.0
"""Events about the node and about health-check node ports: kube-proxy's, in their time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kube.announcer import Announcer
from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.events import Kind, NodeListed
from pyproxy.kube.notices import check_notice
from pyproxy.model import ObjectName
from tests.api.source.api_following import FAST, following
from tests.api.source.test_api_events import (
    NOTE,
    QUICK,
    WEB,
    announcing,
    await_calm,
    posts,
    tell,
)
from tests.apiserver import ApiServer, Settings
from tests.lab.waiting import wait_for

CHECK = check_notice(ObjectName("shop", "web"), "uid-7", "node n1 failed to start healthcheck")
PATIENT = FAST._replace(event_least_s=30.0)


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
def patient(settings: ApiSettings) -> Iterator[Announcer]:
    """Who waits for half a minute with all that is not urgent."""
    yield from announcing(settings, pace=PATIENT)


def test_an_event_about_the_node_comes_at_once(server: ApiServer, patient: Announcer) -> None:
    """With the fields of kube-proxy's (parity A17.11), in the namespace that Nodes have."""
    before = time.time()
    patient.about_node("Starting", "pyproxy 1", kind="Normal")
    wait_for(lambda: bool(list(server.events)), 5, "the Event")
    (event,) = server.events
    assert event["metadata"]["namespace"] == "default"
    assert event["metadata"]["name"].startswith("n1.")
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
    assert (event["type"], event["reason"], event["action"]) == (
        "Normal",
        "Starting",
        "StartKubeProxy",
    )
    assert event["note"] == "pyproxy 1"
    assert time.time() - before < 5


def test_every_start_is_an_event_of_its_own(server: ApiServer, patient: Announcer) -> None:
    """The same words at another time; the time is that of what happened."""
    for _ in range(3):
        patient.about_node("Starting", "pyproxy 1", kind="Normal", wait_s=5)
    assert len({event["metadata"]["name"] for event in server.events}) == 3
    times = [event["eventTime"] for event in server.events]
    assert times == sorted(times)


def test_who_ends_can_wait_for_its_last_words(server: ApiServer, patient: Announcer) -> None:
    """They are posted when the call returns, others or not."""
    tell(patient, {WEB: NOTE})
    patient.about_node("FailedToStartProxierHealthcheck", "in use", wait_s=5)
    assert [event["reason"] for event in server.events] == ["FailedToStartProxierHealthcheck"]


def test_last_words_that_nobody_takes_are_waited_for_so_long(
    server: ApiServer, patient: Announcer
) -> None:
    """An API server that is away keeps no agent from its end."""
    server.stop()
    started = time.monotonic()
    patient.about_node("FailedToStartProxierHealthcheck", "in use", wait_s=0.3)
    assert 0.25 < time.monotonic() - started < 3


def test_an_event_about_the_node_is_tried_again(server: ApiServer, settings: ApiSettings) -> None:
    """As any other, once the server is back."""
    server.fault("answer", "events", times=2, status=503)
    for announcer in announcing(settings):
        announcer.about_node("Starting", "pyproxy 1", kind="Normal")
        await_calm()
    assert [one.status for one in posts(server)] == [503, 503, 201]


def test_nothing_of_the_node_is_remembered(settings: ApiSettings) -> None:
    """Or an agent that says much of it would grow."""
    for announcer in announcing(settings):
        for number in range(5):
            announcer.about_node("Starting", str(number), wait_s=5)
        await_calm()
        assert announcer._once == announcer._pending == announcer._settled == set()


def test_a_health_check_that_fails_is_posted_once(server: ApiServer, settings: ApiSettings) -> None:
    """On the Service, until it is served; it has a place beside ports that are not served."""
    for announcer in announcing(settings, pace=QUICK):
        for _ in range(3):
            announcer.tell_checks([CHECK])
            tell(announcer, {WEB: NOTE})
            await_calm()
        assert sorted(event["reason"] for event in server.events) == [
            "FailedToStartServiceHealthcheck",
            "PortNotServed",
        ]
        announcer.tell_checks([])
        announcer.tell_checks([CHECK])
        await_calm()
    assert [one.status for one in posts(server)] == [201, 201, 409]
    event = next(one for one in server.events if one["action"] == "Listen")
    assert event["metadata"]["namespace"] == "shop"
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
        "uid": "uid-7",
    }


def test_nodes_say_their_own_about_a_health_check(server: ApiServer, settings: ApiSettings) -> None:
    """The sentence names the node, so that none hides another."""
    for node in ("n1", "n2"):
        for announcer in announcing(settings, node=node):
            announcer.tell_checks([CHECK._replace(note=f"node {node} failed")])
            await_calm()
    assert len(list(server.events)) == 2


def test_whether_there_is_a_node_is_told_once(server: ApiServer, settings: ApiSettings) -> None:
    """With its list, before all others have come: those may be forbidden for ever."""
    server.forbid("services", "list")
    with following(settings) as source:
        source.until(lambda: bool(source.node_listed))
        assert not source.synced
        server.permit("services", "list")
        source.until_synced()
        server.compact()
        server.cut_watches()
        source.until(lambda: len(server.asked("nodes", "list")) >= 2)
        source.until(lambda: len(server.asked("nodes", "watch")) >= 2)
    assert [one for one in source.seen if isinstance(one, NodeListed)] == [NodeListed()]
    assert not source.names(Kind.NODE)
