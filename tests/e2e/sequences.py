# SPDX-License-Identifier: Apache-2.0
"""What the tests of kube-proxy's multi-step behaviours share: `sequences` of its flow file.

The steps stand in tests/flows/kube-proxy.yaml; each sequence has a test of its name, which
tests/unit/test_sequences.py asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.e2e.scene import FAMILIES, TCP_PORT, UDP_PORT, App, Scene, members
from tests.lab import manifests
from tests.lab.hosts import Host, Pod
from tests.lab.manifests import Object, port
from tests.lab.prober import Outcome, Prober, Target, tcp, udp
from tests.lab.waiting import wait_for

LAG_S = 5.0  # how long a change may take to be seen
NODE_PORTS = {"TCP": 31180, "UDP": 31153}

# by the socket's hooks, or by the packet path: a process that no agent's cgroup holds
by_each_way = pytest.mark.parametrize("way", ["sockets", "packets"])
by_each_family = pytest.mark.parametrize("family", [4, 6])


def client_by(way: str, scene: Scene, host: Host) -> Host:
    """Return a host as its processes are that reach services in this way."""
    return scene.cluster.free(host) if way == "packets" else host


def with_node_ports(app: App, **spec: object) -> Object:
    """Return an application's Service of type NodePort; `spec` adds fields."""
    ports = [
        {**port(TCP_PORT, name="web"), "nodePort": NODE_PORTS["TCP"]},
        {**port(UDP_PORT, "UDP", name="dns"), "nodePort": NODE_PORTS["UDP"]},
    ]
    return manifests.service(app.name, app.addresses, ports, type="NodePort", **spec)


def node_port(protocol: str, node: Host, family: int) -> Target:
    """Return the NodePort on a node as a destination."""
    make = {"TCP": tcp, "UDP": udp}[protocol]
    return make(node.address(family), NODE_PORTS[protocol], timeout_s=3.0)


def names(outcomes: Sequence[Outcome]) -> set[str]:
    """Return who answered; assert that all questions were answered."""
    assert {outcome.error for outcome in outcomes} == {""}, outcomes
    return {outcome.who for outcome in outcomes}


def await_same_socket(prober: Prober, name: str, to: Target, who: str) -> None:
    """Ask on a held socket until this one answers; what comes of it meanwhile is waited out."""
    last: list[Outcome] = []

    def reached() -> bool:
        last[:] = prober.ask(name, to)
        return last[0].who == who

    try:
        wait_for(reached, LAG_S, f"{who} to answer the same socket")
    except TimeoutError as timeout:
        raise AssertionError(f"{timeout}; last was {last[0]}") from timeout


def expect_members(scene: Scene, app: App, wanted: Mapping[Pod, bool]) -> None:
    """Wait until these pods, ready (True) or only serving, are in the maps of all nodes."""
    for agent in scene.agents:
        for family in FAMILIES:
            found = {(pod.address(family), ready) for pod, ready in wanted.items()}
            wait_for(
                lambda a=agent, f=family, w=found: members(a, f, app.name) == w,  # type: ignore[misc]  # mypy can't infer a lambda with defaults
                LAG_S,
                f"{found} in the maps of {agent.node.name}",
            )
