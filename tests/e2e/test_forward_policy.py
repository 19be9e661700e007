# SPDX-License-Identifier: Apache-2.0
"""FORWARD with the policy DROP and no rule that accepts anything: what status says, and what helps.

Packets alone are forwarded by rules that could drop what we translate; a translated socket's are
like those of any pod that talks to another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene, running
from tests.lab import manifests
from tests.lab.firewalls import Drop
from tests.lab.hosts import Host, Node
from tests.lab.prober import answered, tcp, udp

pytestmark = pytest.mark.once

NODE_PORT = 31_300
POD_CIDRS = "10.244.0.0/16,fd00:10:244::/48"
DRAWS = 3


class Way(NamedTuple):
    """Who asks, at which address and ports of TCP and UDP."""

    client: Host
    address: str
    ports: tuple[int, int]

    def fails(self) -> bool:
        """Return whether nothing answers."""
        to = tcp(self.address, self.ports[0], timeout_s=0.1)
        return self.client.prober.once(to).error == "TIMEOUT"

    def reaches(self, backend: Host) -> bool:
        """Return whether the backend answers, every time."""
        targets = tcp(self.address, self.ports[0]), udp(self.address, self.ports[1])
        draws = [answered(self.client.prober.draw(to, DRAWS)) for to in targets]
        return draws == [{backend.name: DRAWS}] * 2


@pytest.fixture(scope="module")
def firewalled(make_cluster: MakeCluster, translation: str) -> Iterator[Scene]:
    """A cluster whose first node gets firewalls."""
    with running(make_cluster(nodes=2, pods_per_node=2), translation) as found:
        yield found


@pytest.fixture(scope="module")
def apps(firewalled: Scene) -> dict[str, App]:
    """Services with a NodePort: of a pod of the first node, and of one of the second."""
    made = {}
    for number, node in enumerate(firewalled.cluster.nodes):
        app = made[("here", "elsewhere")[number]] = firewalled.app("walled")
        ports = [
            {"name": name, "port": port, "protocol": protocol, "targetPort": 8080,
             "nodePort": NODE_PORT + number}
            for name, port, protocol in (("web", 80, "TCP"), ("dns", 53, "UDP"))
        ]  # fmt: skip
        service = manifests.service(app.name, app.addresses, ports, type="NodePort")
        pods = [node.pods[1]]
        firewalled.put(f"{app.name}.json", service, *app.slices(pods))
        firewalled.await_backends(app, pods)
    return made


def ways(scene: Scene, apps: dict[str, App], where: str, family: int) -> list[Way]:
    """Return the ways through the first node to a backend here or elsewhere."""
    cluster, ip = scene.cluster, apps[where].address(family)
    one, number = cluster.nodes[0], NODE_PORT + (where == "elsewhere")
    return [
        Way(cluster.free(one.pods[0]), ip, (80, 53)),
        Way(cluster.stranger, ip, (80, 53)),
        Way(cluster.client, one.address(family), (number, number)),
    ]


def check_that_all_work(scene: Scene, apps: dict[str, App]) -> None:
    """Assert that every way works."""
    for index, where in enumerate(apps):
        for family in FAMILIES:
            for way in ways(scene, apps, where, family):
                assert way.reaches(scene.cluster.nodes[index].pods[1]), way


def check_that_none_works(scene: Scene, apps: dict[str, App]) -> None:
    """Assert that packets to each service are lost: one way tells, since it takes its time."""
    for where in apps:
        for family in FAMILIES:
            way = ways(scene, apps, where, family)[0]
            assert way.fails(), way


def notices(scene: Scene) -> list[dict[str, Any]]:
    """Return the first node's notices; they alone make no node unhealthy."""
    status = scene.agents[0].status()
    assert status["problems"] == []
    assert status["healthy"]
    found: list[dict[str, Any]] = status["notices"]
    return found


@pytest.fixture(params=list(Drop), ids=lambda found: found.name.lower())
def dropping(request: pytest.FixtureRequest, firewalled: Scene) -> Iterator[Node]:
    """The first node, which forwards nothing that no rule accepts."""
    node, drop = firewalled.cluster.nodes[0], request.param
    drop.set(node)
    yield node
    drop.clear(node)


@pytest.fixture(scope="module", params=["", POD_CIDRS], ids=["unknown", "known"])
def pods_known(request: pytest.FixtureRequest, firewalled: Scene) -> Iterator[bool]:
    """Whether the agent knows which networks are the pods'."""
    agent = firewalled.agents[0]
    options = agent.options
    if request.param:
        agent.options = (*options, f"--cluster-cidr={request.param}")
        agent.restart()
    yield bool(request.param)
    if request.param:
        agent.options = options
        agent.restart()


def test_a_notice_says_what_helps(
    firewalled: Scene, apps: dict[str, App], dropping: Node, pods_known: bool
) -> None:
    """Its commands, word for word, make every way work; the policy stays if the pods are known."""
    check_that_none_works(firewalled, apps)
    found = notices(firewalled)
    assert {each["code"] for each in found} == {"forward-policy-drop"}
    commands = [command for each in found for command in each["commands"]]
    shown = firewalled.agents[0].cli("status").stdout.splitlines()
    for command in commands:
        assert f"  {command}" in shown
        assert dropping.run("sh", "-c", command).stderr == ""
    check_that_all_work(firewalled, apps)
    assert bool(notices(firewalled)) is pods_known


def test_a_notice_needs_no_agent(firewalled: Scene) -> None:
    """What it says is in the kernel; where no chain drops there is none."""
    agent, node = firewalled.agents[0], firewalled.cluster.nodes[0]
    assert notices(firewalled) == []
    agent.stop()
    Drop.NFT.set(node)
    found = agent.status()["notices"]
    Drop.NFT.clear(node)
    agent.start()
    assert [each["code"] for each in found] == ["forward-policy-drop"] * 2
    assert notices(firewalled) == []
