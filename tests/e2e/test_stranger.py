# SPDX-License-Identifier: Apache-2.0
"""An outside host that is routed at a node and dials ClusterIPs there."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.e2e.scene import FAMILIES, TCP_PORT, App, Scene, counters
from tests.lab.hosts import SCRIPTS, Host, await_ready
from tests.lab.prober import Target, answered
from tests.lab.waiting import wait_for

DRAWS = 10
CROWD = 200
BULK = 10_000_000
ECHO_PORT = 7777
KINDS = [
    f"{kind}-IPv{family}" for family in FAMILIES for kind in ("tcp", "udp-sendto", "udp-connected")
]
POD_CIDRS = "10.244.0.0/16,fd00:10:244::/48"


@pytest.fixture(scope="module", params=["by-uplink", "by-cluster-cidr"])
def judged(request: pytest.FixtureRequest, scene: Scene) -> Iterator[Scene]:
    """The ways in which node1 knows that the stranger is not of the cluster."""
    agent = scene.agents[0]
    if request.param == "by-uplink":
        yield scene
        return
    options, agent.options = agent.options, (*agent.options, f"--cluster-cidr={POD_CIDRS}")
    agent.restart()
    yield scene
    agent.options = options
    agent.restart()


@pytest.fixture(scope="module", params=["node1", "node2"])
def backend(request: pytest.FixtureRequest, judged: Scene) -> Host:
    """A pod of the node that the stranger is routed at, and one of another."""
    return judged.cluster.nodes[0 if request.param == "node1" else 1].pods[1]


@pytest.fixture(scope="module")
def app(judged: Scene, backend: Host) -> App:
    """An application of one pod."""
    made = judged.app("strange")
    judged.run(made, [backend])
    return made


def _targets(app: App) -> list[Target]:
    return [
        to
        for family in FAMILIES
        for to in (app.tcp(family), app.udp(family), app.udp(family, connected=True))
    ]


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_stranger_reaches_a_cluster_ip(judged: Scene, app: App, backend: Host, kind: int) -> None:
    """A backend there sees the stranger, one elsewhere that node; the stranger sees the service."""
    to, stranger, node = _targets(app)[kind], judged.cluster.stranger, judged.cluster.nodes[0]
    before = counters(judged.agents[0], to.family)
    outcomes = stranger.prober.draw(to, DRAWS)
    counted = counters(judged.agents[0], to.family) - before
    assert answered(outcomes) == {backend.name: DRAWS}
    is_local = backend in node.pods
    assert {o.seen.split()[0] for o in outcomes} == {
        (stranger if is_local else node).address(to.family)
    }
    assert (counted["packet_source"] == 0) is is_local
    assert counted["packet_in"] >= DRAWS
    if to.protocol == "udp":
        assert {o.source for o in outcomes} == {app.shown(to)}


@pytest.mark.parametrize("family", FAMILIES)
def test_many_connections_of_a_stranger_at_once(judged: Scene, app: App, family: int) -> None:
    """200 connections are open together, and each has a source of its own at the backend."""
    outcomes = judged.cluster.stranger.prober.crowd(app.tcp(family), CROWD)
    assert {(o.error, o.step) for o in outcomes} == {("", "")}
    assert len({o.seen for o in outcomes}) == CROWD


@pytest.fixture(scope="module")
def echo(judged: Scene, backend: Host) -> Iterator[App]:
    """An application that gives back what it gets."""
    server = backend.python("echo.py", "serve", str(ECHO_PORT))
    await_ready(server, backend.name)
    made = judged.app("echo")
    slices = [made.slice(family, [backend], number=ECHO_PORT) for family in FAMILIES]
    judged.put(f"{made.name}.json", made.service(), *slices)
    yield made
    server.kill()
    server.wait(10)


@pytest.mark.parametrize("family", FAMILIES)
def test_bulk_of_a_stranger_both_ways(judged: Scene, echo: App, family: int) -> None:
    """10 MB go and come at the same time, byte for byte."""
    stranger = judged.cluster.stranger
    script = (sys.executable, "-I", "-S", SCRIPTS / "echo.py", "ask", echo.address(family))
    wait_for(
        lambda: stranger.run(*script, str(TCP_PORT), "1").returncode == 0, 5, "the echo to answer"
    )
    done = stranger.run(*script, str(TCP_PORT), str(BULK))
    assert (done.stderr, done.returncode) == ("", 0)
