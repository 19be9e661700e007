# SPDX-License-Identifier: Apache-2.0
"""Two agents on a node, as during a roll-out with surge: one serves, the other takes over.

The new one prepares everything and waits for the lock; nobody's connection notices who has it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.scene import App, Scene, service_names
from tests.e2e.successor import PREPARED_S, Successor, expect_flow
from tests.e2e.traffic import Traffic
from tests.lab import bpf_objects, release
from tests.lab.agent import Agent
from tests.lab.asked import get
from tests.lab.manifests import Object
from tests.lab.waiting import wait_for

# who asks by packets asks so whatever sockets are translated, and both ways are tried
pytestmark = pytest.mark.once

HAND_OVER_S = 10.0  # 0.2 s where nothing else runs; 1.5 s was seen on two cores with ten for them
CHECK = 30_901


@pytest.fixture
def traffic(own: Scene, web: App) -> Iterator[list[Traffic]]:
    """Connections of a pod by its sockets, and of one by packets: none may be lost or fail."""
    pod = own.cluster.nodes[0].pods[0]
    with ExitStack() as stack:
        clients = (pod, own.cluster.free(own.cluster.nodes[0].pods[1]))
        yield [stack.enter_context(Traffic(own, web, client)) for client in clients]


@pytest.fixture(scope="module")
def another(own: Scene) -> tuple[str, ...]:
    """How to start another release, whose programs are others."""
    return release.another(own.cluster.directory / "another")


def balanced(app: App) -> Object:
    """Return a Service with a health-check node port."""
    return app.service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=CHECK
    )


def listening(agent: Agent) -> dict[int, int]:
    """Return what the ports of an agent's node answer: health, metrics, a service's health."""
    ports = {10256: "/healthz", 10249: "/healthz", CHECK: "/"}
    return {port: get(agent.node, "127.0.0.1", port, path).status for port, path in ports.items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_an_agent_takes_over(
    own: Scene, web: App, agent: Agent, traffic: list[Traffic], number: signal.Signals
) -> None:
    """It is ready before the other one ends, and serves at once when it does, ports included."""
    app, pods = own.app("balanced"), own.cluster.nodes[0].pods
    own.put("balanced.json", balanced(app), *app.slices(pods))
    wait_for(lambda: set(listening(agent).values()) == {200}, 5, "all ports to answer", 0.05)
    with Successor(own, agent) as new:
        new.await_prepared(traffic)
        status = agent.status()
        assert (status["healthy"], status["agent"]["pid"]) == (True, agent.pid)
        assert (status["waiting"]["pid"], status["waiting"]["lacks"]) == (new.agent.pid, "")
        # what changes meanwhile is written by who serves, and known to who waits
        own.run(web, own.cluster.pods[::-1])
        expect_flow(traffic)
        took = new.takes_over(lambda: agent.process.send_signal(number))  # type: ignore[union-attr]  # it runs
        wait_for(lambda: set(listening(agent).values()) == {200}, HAND_OVER_S, "ports", 0.001)
        expect_flow(traffic)
        print(f"{number.name}: synced after {took * 1000:.0f} ms")
        assert took < HAND_OVER_S
        assert agent.process is not None
        assert agent.process.wait(5) == (0 if number is signal.SIGTERM else -number)
        assert new.probe() == (0, "ok\n")
        assert (new.agent.status()["healthy"], new.agent.status()["waiting"]) == (True, None)
        own.drop("balanced.json")
        wait_for(lambda: service_names(agent.services()) == {web.name}, 5, "a change to count")
        assert "cannot listen" not in new.agent.log.read_text(encoding="utf-8")


def test_another_release_takes_over(
    own: Scene, web: App, agent: Agent, traffic: list[Traffic], another: tuple[str, ...]
) -> None:
    """Its programs are compiled and loaded before the other agent ends, beside those that run."""
    with Successor(own, agent) as new:
        new.agent.stop()
        new.agent.program = another
        new.agent.launch()
        new.await_prepared(traffic)
        assert agent.status()["problems"] == [], "programs that nobody runs are no fault"
        took = new.takes_over(agent.stop)
        expect_flow(traffic)
        print(f"another release: synced after {took * 1000:.0f} ms")
        assert took < HAND_OVER_S
        log = new.agent.log.read_text(encoding="utf-8")
        assert "loaded the programs" not in log, "nothing was left to be loaded"
        assert new.agent.status()["problems"] == []
        own.run(web, own.cluster.pods[:1])
        own.run(web, own.cluster.pods)


def test_who_waits_may_be_killed(
    own: Scene, web: App, agent: Agent, traffic: list[Traffic], another: tuple[str, ...]
) -> None:
    """While it prepares and afterwards: the one that serves has its pins, and goes on."""
    before = bpf_objects.owned(agent)
    with Successor(own, agent) as new:
        new.agent.program = another
        for moment in ("preparing", "prepared"):
            new.agent.kill()
            new.agent.launch()
            wait_for(lambda m=moment: f"{m}" in _since(new), PREPARED_S, moment)  # type: ignore[misc]  # mypy can't infer a lambda with defaults
            new.agent.kill()
            expect_flow(traffic)
            assert agent.status()["waiting"] is None
            assert agent.status()["problems"] == []
        new.agent.launch()
        new.await_prepared(traffic)
        new.agent.stop()
    assert bpf_objects.owned(agent) == before, "one that ends takes its programs along"
    own.run(web, own.cluster.pods[:1])
    own.run(web, own.cluster.pods)


def _since(new: Successor) -> str:
    """Return the log of this process alone."""
    text = new.agent.log.read_text(encoding="utf-8")
    return text.rpartition("another agent runs here: ")[2] if text else ""


def test_who_cannot_prepare_is_not_ready(own: Scene, agent: Agent) -> None:
    """It would know of no services: a roll-out stops there, and the node is served as before."""
    with Successor(own, agent) as new:
        new.agent.stop()
        nowhere = own.cluster.directory / "nowhere"
        nowhere.write_text(_kubeconfig("https://127.0.0.1:9"))
        new.agent.source = f"--kubeconfig={nowhere}"
        new.agent.launch()
        wait_for(lambda: "its first lists" in new.probe()[1], PREPARED_S, "a reason", 0.1)
        assert new.probe()[0] == 1
        assert new.probe("live")[0] == 0, "a new start would mend nothing"
        assert agent.status()["waiting"]["lacks"] == "its first lists"
        assert "lacks its first lists" in agent.cli("status").stdout
        assert agent.healthz() == 200, "which its own port says, and nobody else's"


def _kubeconfig(server: str) -> str:
    return json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    })  # fmt: skip


def test_a_second_agent_is_refused_where_it_is_not_to_take_over(own: Scene, agent: Agent) -> None:
    """By mistake nobody waits."""
    with Successor(own, agent) as new:
        new.agent.stop()
        new.agent.options = agent.options
        new.agent.launch()
        assert new.agent.process is not None
        assert new.agent.process.wait(20) == 1
        said = new.agent.log.read_text(encoding="utf-8")
        assert f"an agent (pid {agent.pid}) runs with the run-dir" in said
        assert "--take-over" in said
