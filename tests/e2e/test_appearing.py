# SPDX-License-Identifier: Apache-2.0
"""Devices that appear and go, with and without an agent."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from pyproxy.kernel.entries import device_of, device_pins
from pyproxy.kernel.pins import Pins
from pyproxy.model import Family
from tests.e2e.scene import App, Scene, counters
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.hosts import Node, Pod
from tests.lab.waiting import wait_for

COVERED_WITHIN_S = 0.1
# The kernel takes two RCU grace periods a device, one after the other (it holds the RTNL lock).
EACH_MORE_S = 0.05
SIDES = 2


@pytest.fixture(scope="module")
def web(own: Scene) -> App:
    """An application on a pod of node2."""
    app = own.app("web")
    own.run(app, own.cluster.nodes[1].pods[:1])
    return app


@pytest.fixture
def agent(own: Scene) -> Iterator[Agent]:
    """The agent of node1; it runs again after the test."""
    agent = own.agents[0]
    yield agent
    if not agent.running:
        agent.start()


def _covered(agent: Agent) -> set[int]:
    """Return the devices that have programs on both sides."""
    sides = Counter(map(device_of, device_pins(Pins(agent.bpffs, Family.IPV4))))
    return {ifindex for ifindex, count in sides.items() if count == SIDES}


def _ifindexes(node: Node, pods: list[Pod]) -> set[int]:
    names = [pod.net.device for pod in pods]
    return netns.inside(node.netns, lambda: set(map(socket.if_nametoindex, names)))


def _expect_answers(own: Scene, web: App, pods: list[Pod]) -> None:
    """Every first packet counts: nothing is sent twice within this patience."""
    server = own.cluster.nodes[1].pods[0].name
    for pod in pods:
        for family in (4, 6):
            for to in (web.tcp(family, timeout_s=0.9), web.udp(family, timeout_s=0.9)):
                outcome = own.cluster.free(pod).prober.once(to)
                assert (outcome.who, outcome.error) == (server, ""), (pod.name, to)


@pytest.mark.parametrize("count", [1, 5])
def test_devices_that_appear_are_covered_at_once(
    own: Scene, web: App, agent: Agent, count: int
) -> None:
    """One within 100 ms, from before `ip` is started until both of its sides have programs."""
    node = agent.node
    with own.cluster.more_pods(node, count) as pods:
        before, started = _covered(agent), time.monotonic()
        own.cluster.plug(node, pods)
        wait_for(lambda: len(_covered(agent) - before) == count, 5, "the programs", 0.001)
        seconds = time.monotonic() - started
        own.cluster.configure(node, pods)
        assert _ifindexes(node, pods) == _covered(agent) - before
        _expect_answers(own, web, pods)
    assert seconds <= COVERED_WITHIN_S + EACH_MORE_S * (count - 1)
    wait_for(lambda: _covered(agent) == before, 5, "the links of devices that are gone to be")


def test_a_pod_that_starts_while_no_agent_runs_is_covered_by_the_next(
    own: Scene, web: App, agent: Agent
) -> None:
    """Until then its packets to a service do not leave the node (rule_10); then all is well."""
    node = agent.node
    agent.kill()
    with own.cluster.more_pods(node, 1) as pods:
        own.cluster.plug(node, pods)
        own.cluster.configure(node, pods)
        free = own.cluster.free(pods[0])
        before = counters(agent, 4)
        assert free.prober.once(web.tcp(4, timeout_s=0.3)).error == "TIMEOUT"
        assert (counters(agent, 4) - before)["packet_leak"] > 0
        agent.start()
        _expect_answers(own, web, pods)


def test_a_device_that_is_not_covered_is_a_problem(own: Scene, web: App, agent: Agent) -> None:
    """While no agent runs, status names the device that lacks its programs."""
    node = agent.node
    agent.kill()
    with own.cluster.more_pods(node, 1) as pods:
        own.cluster.plug(node, pods)
        problems = agent.status()["problems"]
        named = [p["message"] for p in problems if p["code"] == "device-not-covered"]
        assert len(named) == 1
        assert pods[0].net.device in named[0]
        agent.start()
        assert agent.status()["problems"] == []
    assert web.name in {service["name"] for service in agent.services()}
