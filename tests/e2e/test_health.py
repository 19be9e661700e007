# SPDX-License-Identifier: Apache-2.0
"""What load balancers ask of nodes: their health, and that of services, by the network."""

from __future__ import annotations

import json

import pytest

from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab import manifests
from tests.lab.asked import Got, get
from tests.lab.hosts import Host
from tests.lab.manifests import NOT_READY, TERMINATING
from tests.lab.waiting import wait_for

# who asks is outside, whatever translates
pytestmark = pytest.mark.once

CHECK, OTHER = 32100, 32101
HEALTHZ = 10256
TAINT = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}


def balanced(app: App, port: int, policy: str = "Local") -> manifests.Object:
    """Return an application's Service that a load balancer asks for."""
    fields = {"healthCheckNodePort": port} if policy == "Local" else {}
    return app.service(type="LoadBalancer", externalTrafficPolicy=policy, **fields)


def check(scene: Scene, node: Host, port: int, family: int = 4) -> Got:
    """Ask a node for a service's health, as a load balancer does."""
    return get(scene.cluster.client, node.address(family), port)


def await_endpoints(scene: Scene, expected: dict[str, int], port: int = CHECK) -> None:
    """Wait until each node says so many, by both families."""

    def said() -> dict[str, int]:
        found = {}
        for node in scene.cluster.nodes:
            for family in FAMILIES:
                got = check(scene, node, port, family)
                count = json.loads(got.body)["localEndpoints"] if got.body else -1
                assert got.status in {0, 200 if count else 503}
                found[f"{node.name}/{family}"] = count
        return found

    wanted = {f"{name}/{family}": n for name, n in expected.items() for family in FAMILIES}
    wait_for(lambda: said() == wanted, 5, f"the nodes to say {expected}", 0.05)


def test_load_balancers_find_the_nodes_with_endpoints(scene: Scene) -> None:
    """Ready ones of each node; with none left, or another policy, nobody is sent there."""
    app, nodes = scene.app("balanced"), scene.cluster.nodes
    mine = [pod for pod in scene.cluster.pods if pod.node_name == nodes[0].name][:2]
    none = dict.fromkeys((node.name for node in nodes), 0)
    scene.put("check.json", balanced(app, CHECK), *app.slices(mine))
    await_endpoints(scene, none | {nodes[0].name: 2})
    got = check(scene, nodes[0], CHECK)
    assert json.loads(got.body)["service"] == {"namespace": "default", "name": app.name}
    assert got.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    for conditions in (TERMINATING, NOT_READY):
        scene.put("check.json", balanced(app, CHECK), *app.slices(mine, conditions))
        await_endpoints(scene, none)
        scene.put("check.json", balanced(app, CHECK), *app.slices(mine[:1]))
        await_endpoints(scene, none | {nodes[0].name: 1})
    scene.put("check.json", balanced(app, OTHER), *app.slices(mine))
    await_endpoints(scene, none | {nodes[0].name: 2}, OTHER)
    await_endpoints(scene, dict.fromkeys(none, -1))
    scene.put("check.json", balanced(app, 0, "Cluster"), *app.slices(mine))
    await_endpoints(scene, dict.fromkeys(none, -1), OTHER)


def test_a_health_check_port_in_use_is_a_problem(scene: Scene) -> None:
    """Two Services ask for one: the second is named, and gets it once the first is gone."""
    first, second = scene.app("first"), scene.app("second")
    scene.put("first.json", balanced(first, CHECK))
    none = dict.fromkeys((node.name for node in scene.cluster.nodes), 0)
    await_endpoints(scene, none)
    scene.put("second.json", balanced(second, CHECK))
    agent = scene.agents[0]

    def codes() -> list[str]:
        return [each["code"] for each in agent.status()["problems"]]

    wait_for(lambda: codes() == ["health-check-not-served"] * 2, 5, "both families' problem")
    scene.drop("first.json")
    wait_for(lambda: not codes(), 5, "no problem")
    got = check(scene, agent.node, CHECK)
    assert json.loads(got.body)["service"]["name"] == second.name


def test_a_node_that_is_to_go_is_left_out(scene: Scene) -> None:
    """/healthz says so by the autoscaler's taint, /livez does not; IPv6 is answered, too."""
    node = scene.cluster.nodes[0]
    body = manifests.node(node)

    def codes() -> list[int]:
        paths = ("/healthz", "/livez")
        return [get(scene.cluster.client, node.address(6), HEALTHZ, path).status for path in paths]

    assert codes() == [200, 200], "nobody describes nodes"
    scene.put("node.json", {**body, "spec": {"taints": [TAINT]}})
    wait_for(lambda: codes() == [503, 200], 5, "the node to be left out")
    answer = get(scene.cluster.client, node.address(4), HEALTHZ, "/healthz")
    said = json.loads(answer.body)
    assert (said["healthy"], said["nodeEligible"]) == (True, False)
    assert [each["healthy"] for each in said["status"].values()] == [True, True]
    scene.put("node.json", body)
    wait_for(lambda: codes() == [200, 200], 5, "the node to be back")
    scene.drop("node.json")
    assert codes() == [200, 200]
