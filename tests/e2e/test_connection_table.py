# SPDX-License-Identifier: Apache-2.0
"""The connection table in `status`: how full it is, and what happens when it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.scene import App, Scene, counters
from tests.e2e.test_packet_restart import resize
from tests.lab.agent import Agent
from tests.lab.prober import answered

pytestmark = pytest.mark.once

SMALL = 1024
CROWD = 1200
OPEN = 100


@pytest.fixture(scope="module")
def small(own: Scene) -> Iterator[Agent]:
    """The agent of node2 with a small table; what other modules open is in node1's."""
    agent, options = own.agents[1], own.agents[1].options
    resize(agent, SMALL, own.cluster.directory / "small.yaml")
    yield agent
    agent.options = options
    agent.restart()


@pytest.fixture(scope="module")
def web(own: Scene, small: Agent) -> App:
    """An application on a pod of node1."""
    assert small.running
    app = own.app("web")
    own.run(app, own.cluster.nodes[0].pods[:1])
    return app


def _table(agent: Agent) -> dict[str, Any]:
    tables: list[dict[str, Any]] = [
        m for m in agent.status()["maps"] if m["name"] == "IPv4 connections"
    ]
    assert len(tables) == 1
    return tables[0]


def _codes(agent: Agent) -> set[str]:
    return {problem["code"] for problem in agent.status()["problems"]}


def test_status_shows_how_full_the_table_is(own: Scene, web: App, small: Agent) -> None:
    """Open connections are counted while they are open."""
    prober = own.cluster.free(own.cluster.nodes[1].pods[0]).prober
    assert _table(small)["max"] == SMALL - 1
    for number in range(OPEN):
        assert prober.open(f"c{number}", web.tcp(4)).error == ""
    assert OPEN <= _table(small)["used"] < SMALL
    for number in range(OPEN):
        prober.close(f"c{number}")


def test_a_full_table_refuses_the_new_and_says_so(own: Scene, web: App, small: Agent) -> None:
    """Established connections live on, the new get no answer, status names it and the remedy."""
    client = own.cluster.free(own.cluster.nodes[1].pods[0])
    server = own.cluster.nodes[0].pods[0].name
    assert client.prober.open("held", web.tcp(4)).error == ""
    assert "connection-table-full" not in _codes(small)
    outcomes = client.prober.crowd(web.tcp(4, timeout_s=0.8), CROWD)
    drawn = answered(outcomes)
    assert set(drawn) == {server, "TIMEOUT"}
    assert drawn[server] <= SMALL
    assert drawn[server] >= SMALL * 0.8
    assert counters(small, 4)["table_full"] > 0
    assert answered(client.prober.ask("held", web.tcp(4), 3)) == {server: 3}
    problems = [p for p in small.status()["problems"] if p["code"] == "connection-table-full"]
    assert len(problems) == 1
    assert "connectionTable.maxEntries" in problems[0]["remedy"]
    assert "connection-table-full" not in _codes(own.agents[0])
    client.prober.close("held")
