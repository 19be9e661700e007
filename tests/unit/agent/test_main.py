# SPDX-License-Identifier: Apache-2.0
"""What the parts of an agent are handed when it starts."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyproxy.agent import main
from pyproxy.agent.health import Healthiness
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.messages import Messages
from pyproxy.agent.meters import Meters
from pyproxy.agent.probes import LIVE, READY, Probes
from pyproxy.agent.scrape import Scrape
from pyproxy.kernel import sockets
from pyproxy.kube.events import Synced
from pyproxy.kube.notices import TellNobody
from pyproxy.model import Family
from pyproxy.serve import listening
from pyproxy.serve.http import HttpServer
from tests.lab.waiting import wait_for
from tests.unit.agent.test_reconfigure import CONFIG
from tests.unit.serve.test_health import free_port

COUNTS = {("healthz", 200): 3, ("livez", 503): 1}
AGE_S = 60.0


class Started:
    """An agent that was put together from the parts of a node of one family, and does not run."""

    def __init__(self, sync_period_s: float, running: contextlib.ExitStack) -> None:
        config = CONFIG._replace(sync_period_s=sync_period_s, healthz_bind_address=None)
        meters = Meters([Family.IPV4])
        # whatever is queued was queued a while ago
        self.messages = Messages(lambda: time.monotonic() - AGE_S)
        told, http, inbox = TellNobody(), HttpServer(), Inbox(config.options)
        self.probes = Probes()
        parts = main._Parts(
            config, self.messages, running, running, meters, told, http, self.probes, inbox
        )
        self.scrape = Scrape(config, meters)
        loaded: Any = {Family.IPV4: SimpleNamespace(pins=None)}
        agent: Any = main._agent(parts, loaded, cast("Any", None), cast("Any", None), self.scrape)
        self.health: Healthiness = agent.handed["health"]


class FakeAgent:
    """Takes what an Agent is handed."""

    def __init__(self, *_: object, **handed: Any) -> None:
        self.handed = handed
        self.config = CONFIG._replace(configuration={"kind": "changed"})
        self.service_ids: Mapping[object, int] = {}
        self.lacks, self.ails = (lambda: "something"), (lambda: "")


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[contextlib.ExitStack]:
    """What ends with the agent; nothing here comes near the kernel."""
    monkeypatch.setattr(main, "Agent", FakeAgent)
    monkeypatch.setattr(main, "ServiceTraffic", lambda *_: dict)
    monkeypatch.setattr(main, "_serving", lambda *_: SimpleNamespace(counts=lambda: COUNTS))
    monkeypatch.setattr(sockets, "are_attached", lambda _: True)
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(("sync_period_s", "is_healthy"), [(29.0, False), (31.0, True)])
def test_changes_may_wait_for_two_sync_periods(
    running: contextlib.ExitStack, sync_period_s: float, *, is_healthy: bool
) -> None:
    """Then /healthz says so (A12.5)."""
    started = Started(sync_period_s, running)
    started.health.settle([])
    assert started.health.is_healthy()
    started.messages.put(Synced())
    assert started.health.is_healthy() is is_healthy


def test_probes_are_answered_by_the_agent_itself(running: contextlib.ExitStack) -> None:
    """A pod that starts is not ready, and need not be started again; later the agent knows."""
    assert [Probes().answer(path).status for path in (READY, LIVE, "/")] == [503, 200, 404]
    probes = Started(30.0, running).probes
    answers = [probes.answer(path) for path in (READY, LIVE)]
    assert [(each.status, each.body) for each in answers] == [(503, b"something\n"), (200, b"ok\n")]


def test_a_scrape_gets_what_the_health_port_has_answered(running: contextlib.ExitStack) -> None:
    """By code (A20.7)."""
    found = {each.spec.name: each.values for each in Started(30.0, running).scrape._health()}
    assert found == {
        "kubeproxy_proxy_healthz_total": {("200",): 3, ("503",): 0},
        "kubeproxy_proxy_livez_total": {("200",): 0, ("503",): 1},
    }


def test_a_scrape_that_nobody_can_get_is_told_of(
    running: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as somebody else has the address; each reason goes to the Event once (A13.1)."""
    monkeypatch.setattr(listening, "RETRY_S", 0.05)
    scrape, told = Started(30.0, running).scrape, list[str]()
    address = ("127.0.0.1", free_port())
    scrape._config = CONFIG._replace(metrics_bind_address=address)
    with socket.socket() as other:
        other.bind(address)
        other.listen()
        server = scrape.server(told.append)
        assert server
        assert scrape.failure == ""
        server.start()
        running.callback(server.stop)
        why = f"failed to start metrics server on 127.0.0.1:{address[1]}: Address already in use"
        wait_for(lambda: scrape.failure == why, 10, "the failure")
    wait_for(lambda: scrape.failure == "", 10, "the server to listen")
    assert told == [why]


def test_configz_shows_what_is_in_force(running: contextlib.ExitStack) -> None:
    """Also when that has changed while the agent runs (A13.5)."""
    assert Started(30.0, running).scrape.configuration() == {"kind": "changed"}
