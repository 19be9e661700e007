# SPDX-License-Identifier: Apache-2.0
"""Services by addresses from outside: NodePorts, external IPs and load balancers' addresses."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.hosts import Host
from tests.lab.manifests import Object, service
from tests.lab.prober import Target, answered, tcp, udp
from tests.lab.waiting import wait_for

DRAWS = 12
NODE_PORTS = {"TCP": 31080, "UDP": 31053}
NUMBERS = {"TCP": 80, "UDP": 53}
# of the range that is routed at node1
EXTERNAL = {4: "10.96.0.240", 6: "fd00:10:96::f0"}
BALANCED = {4: "10.96.0.241", 6: "fd00:10:96::f1"}
ROUTED = {4: ("10.96.7.0/24", "10.96.7.77"), 6: ("fd00:10:96::70/124", "fd00:10:96::77")}
PROTOCOLS = ("TCP", "UDP")
SOURCE_PORTS = itertools.count(20_000)  # below those that sockets get by themselves
BIND = "import socket; socket.create_server(('', {port}))"


def outside(app: App, **spec: object) -> Object:
    """Return an application's Service with every way from outside."""
    names = {"TCP": "web", "UDP": "dns"}
    ports = [
        {
            "name": names[p], "port": NUMBERS[p], "protocol": p,
            "targetPort": 8080, "nodePort": NODE_PORTS[p],
        }
        for p in PROTOCOLS
    ]  # fmt: skip
    made = service(
        app.name,
        app.addresses,
        ports,
        type="LoadBalancer",
        externalIPs=list(EXTERNAL.values()),
        **spec,
    )
    ingress = [{"ip": address} for address in BALANCED.values()]
    return {**made, "status": {"loadBalancer": {"ingress": ingress}}}


def target(protocol: str, address: str, port: int) -> Target:
    """Return a destination."""
    if protocol == "TCP":
        return tcp(address, port, timeout_s=3.0)
    return udp(address, port, timeout_s=3.0)


def node_port(protocol: str, node: Host, family: int) -> Target:
    """Return the NodePort on a node."""
    return target(protocol, node.address(family), NODE_PORTS[protocol])


@pytest.fixture(scope="module", params=["Cluster", "Local"])
def policy(request: pytest.FixtureRequest) -> str:
    """The externalTrafficPolicy."""
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def app(policy: str, scene: Scene) -> Iterator[App]:
    """An application with a pod on each node."""
    made = scene.app("outside")
    pods = [node.pods[1] for node in scene.cluster.nodes]
    written = outside(made, externalTrafficPolicy=policy)
    scene.put("outside.json", written, *made.slices(pods))
    scene.await_backends(made, pods)
    yield made
    scene.drop("outside.json")
    # the next one has the same addresses
    wait_for(
        lambda: not any(agent.services() for agent in scene.agents), 5, "the service to be gone"
    )


def pods_of(scene: Scene, node: Host | None = None) -> set[str]:
    """Return the names of the pods that may answer: a node's, or all."""
    return {each.pods[1].name for each in scene.cluster.nodes if node in {None, each}}


def draw(client: Host, to: Target, wanted: set[str]) -> set[str]:
    """Return who answers so many times that none of the wanted is left out by chance.

    A datagram from a port that was used before would go on with what that one asked for: each has
    a port of its own.
    """
    draws = DRAWS * len(wanted)
    if to.protocol == "udp":
        each = (replace(to, source_port=next(SOURCE_PORTS)) for _ in range(draws))
        outcomes = [client.prober.once(one) for one in each]
    else:
        outcomes = client.prober.draw(to, draws)
    assert {outcome.error for outcome in outcomes} == {""}
    return set(answered(outcomes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_node_ports_from_outside(scene: Scene, policy: str, protocol: str, family: int) -> None:
    """At each node: all pods under Cluster, those of the node under Local."""
    for node in scene.cluster.nodes:
        wanted = pods_of(scene, node if policy == "Local" else None)
        to = node_port(protocol, node, family)
        assert draw(scene.cluster.client, to, wanted) == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backends_on_the_node_see_the_client(scene: Scene, protocol: str, family: int) -> None:
    """Those on other nodes see that node, or their answers would not come back to it."""
    client = scene.cluster.client
    node, *_ = scene.cluster.nodes
    outcomes = client.prober.draw(node_port(protocol, node, family), DRAWS)
    for outcome in outcomes:
        near = outcome.who == node.pods[1].name
        assert outcome.seen.split()[0] == (client if near else node).address(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_external_and_balanced_addresses(
    scene: Scene, policy: str, protocol: str, family: int
) -> None:
    """For a host that is routed at a node, whether that node has the address or not."""
    wanted = pods_of(scene, scene.cluster.nodes[0] if policy == "Local" else None)
    for address in (EXTERNAL[family], BALANCED[family]):
        to = target(protocol, address, NUMBERS[protocol])
        assert draw(scene.cluster.stranger, to, wanted) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_that_is_a_nodes(scene: Scene, policy: str, family: int) -> None:
    """`ip route add local`: its addresses are that node's, for hosts that are routed there."""
    node, *_ = scene.cluster.nodes
    network, address = ROUTED[family]
    wanted = pods_of(scene, node if policy == "Local" else None)
    route = (f"-{family}", "route")
    assert not node.run("ip", *route, "add", "local", network, "dev", "lo").returncode
    try:
        for client in (scene.cluster.stranger, node, node.pods[0]):
            for protocol in PROTOCOLS:
                to = target(protocol, address, NODE_PORTS[protocol])
                wait_for(lambda c=client, t=to: c.prober.once(t).who, 5, f"{to} to be served")  # type: ignore[misc]  # mypy can't infer a lambda with defaults
                reached = pods_of(scene) if client is node else wanted
                assert draw(client, to, reached) == reached
    finally:
        node.run("ip", *route, "del", "local", network, "dev", "lo")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_node_ports_from_nodes(scene: Scene, policy: str, protocol: str, family: int) -> None:
    """A node's own reach all pods (A9.7); at another node it is a client from outside."""
    first, second = scene.cluster.nodes
    own = node_port(protocol, first, family)
    assert draw(first, own, pods_of(scene)) == pods_of(scene)
    wanted = pods_of(scene, second if policy == "Local" else None)
    assert draw(first, node_port(protocol, second, family), wanted) == wanted
    if family == 4:
        loopback = target(protocol, "127.0.0.1", NODE_PORTS[protocol])
        assert draw(first, loopback, pods_of(scene)) == pods_of(scene)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_node_ports_from_pods(scene: Scene, policy: str, protocol: str, family: int) -> None:
    """On their own node and on another; without a detector they count as any client (A9.6)."""
    client = scene.cluster.nodes[0].pods[0]
    for node in scene.cluster.nodes:
        wanted = pods_of(scene, node if policy == "Local" else None)
        assert draw(client, node_port(protocol, node, family), wanted) == wanted


def test_a_node_port_cannot_be_bound(scene: Scene) -> None:
    """By no process of the node; a pod's ports are its own."""
    node = scene.cluster.nodes[0]
    code = BIND.format(port=NODE_PORTS["TCP"])
    for host, refused in ((node, True), (node.pods[0], False)):
        process = host.popen(sys.executable, "-c", code, stderr=subprocess.PIPE, text=True)
        _, said = process.communicate(timeout=10)
        assert ("Address already in use" in said) is refused
        assert bool(process.returncode) is refused


def test_who_listened_before_is_named(scene: Scene) -> None:
    """It goes on, and status says that what comes from outside is not its own."""
    node, agent = scene.cluster.nodes[0], scene.agents[0]
    own = scene.app("taken")
    ports = [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 31099}]
    with closing(netns.inside(node.netns, lambda: socket.create_server(("", 31099)))):
        scene.put("taken.json", service(own.name, own.addresses, ports, type="NodePort"))
        wait_for(lambda: "node-port-in-use" in codes(agent), 5, "status to name it")
        (said,) = (p for p in agent.status()["problems"] if p["code"] == "node-port-in-use")
        assert f"31099/TCP of default/{own.name}:web" in said["message"]
    assert "node-port-in-use" not in codes(agent)
    scene.drop("taken.json")


def codes(agent: Agent) -> set[str]:
    """Return the codes of what is wrong on a node."""
    return {str(problem["code"]) for problem in agent.status()["problems"]}


@pytest.mark.once
@pytest.mark.parametrize("family", FAMILIES)
def test_two_first_datagrams_at_once(scene: Scene, family: int) -> None:
    """Two CPUs open one connection, and choose its source: both datagrams arrive (rule 5).

    One waits for the other, though not for ever: a CPU that is called away by its hypervisor for
    longer than a packet may be kept costs a datagram.
    """
    pairs = 200
    port = str(NODE_PORTS["UDP"])
    client = scene.cluster.client
    for node in scene.cluster.nodes:
        to = node_port("UDP", node, family)
        wait_for(lambda to=to: not client.prober.once(to).error, 5, "an answer")  # type: ignore[misc]
        done = client.script("pairs.py", node.address(family), port, str(pairs))
        assert done.stderr == ""
        assert int(done.stdout) >= 2 * pairs * 0.99, node.name
