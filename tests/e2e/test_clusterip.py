# SPDX-License-Identifier: Apache-2.0
"""Connections to ClusterIPs reach ready pods, from everywhere and with every kind of socket."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.scene import App, Scene
from tests.lab.cluster import Cluster
from tests.lab.evenness import evenness
from tests.lab.hosts import Host
from tests.lab.prober import Target, answered, udp

pytestmark = pytest.mark.anywhere

CLIENTS: dict[str, Callable[[Cluster], Host]] = {
    "pod-node1": lambda cluster: cluster.nodes[0].pods[0],
    "pod-node2": lambda cluster: cluster.nodes[1].pods[0],
    "process-node1": lambda cluster: cluster.nodes[0],
    "process-node2": lambda cluster: cluster.nodes[1],
}
KINDS = [
    f"{kind}-{family}"
    for family in ("IPv4", "IPv6", "mapped")
    for kind in ("tcp", "udp-sendto", "udp-connected")
]


@pytest.fixture(scope="module")
def web(scene: Scene) -> App:
    """An application on all six pods of both nodes."""
    app = scene.app("web")
    scene.run(app, scene.cluster.pods)
    return app


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, scene: Scene) -> Host:
    """Each place a connection may come from."""
    return CLIENTS[request.param](scene.cluster)


@pytest.fixture(params=range(len(KINDS)), ids=KINDS)
def target(request: pytest.FixtureRequest, web: App) -> Target:
    """Each kind of socket."""
    kind: int = request.param
    return web.every_target()[kind]


def test_every_client_and_socket_reaches_pods_of_both_nodes(
    scene: Scene, client: Host, target: Target
) -> None:
    """Any socket, anywhere: only pods answer, of both nodes, and none of 60 draws fails."""
    drawn = answered(client.prober.draw(target, 60))
    assert set(drawn) <= {pod.name for pod in scene.cluster.pods}
    assert {name[:4] for name in drawn} == {"pod1", "pod2"}


def test_sockets_show_the_service_not_the_backend(web: App, client: Host, target: Target) -> None:
    """What getpeername and recvfrom give is the address that was dialled."""
    for outcome in client.prober.draw(target, 10):
        assert outcome.error == ""
        if target.protocol == "udp":
            assert outcome.source == web.shown(target)
        if target.protocol == "tcp" or target.connected:
            assert outcome.peer == web.shown(target)


def test_pods_see_the_clients_own_address(scene: Scene, web: App) -> None:
    """Nothing translates the source: a pod sees the address of the pod that calls."""
    pod = scene.cluster.nodes[0].pods[0]
    seen = {o.seen.split()[0] for o in pod.prober.draw(web.tcp(4), 20) if o.who != pod.name}
    assert seen == {pod.ipv4}


@pytest.mark.parametrize("kind", ["tcp-IPv4", "tcp-IPv6", "udp-sendto-IPv4", "udp-connected-IPv6"])
def test_choice_is_even(scene: Scene, web: App, kind: str) -> None:
    """2,000 draws over six backends pass a chi-square test (p = 0.0001)."""
    target = web.every_target()[KINDS.index(kind)]
    drawn = answered(scene.cluster.pods[1].prober.draw(target, 2000))
    assert set(drawn) == {pod.name for pod in scene.cluster.pods}
    assert evenness(drawn.values()) > 0.0001, drawn


@pytest.mark.parametrize("family", [4, 6])
def test_pod_reaches_itself_through_its_service(scene: Scene, family: int) -> None:
    """Hairpin: the only backend is the client itself."""
    pod = scene.cluster.nodes[0].pods[2]
    app = scene.app("hairpin")
    scene.run(app, [pod])
    for target in (app.tcp(family), app.udp(family), app.udp(family, connected=True)):
        assert answered(pod.prober.draw(target, 10)) == {pod.name: 10}


@pytest.mark.lab
def test_client_outside_is_not_translated(scene: Scene, web: App) -> None:
    """A socket outside the nodes' cgroups is none of an agent's business: its route counts."""
    client = scene.cluster.client
    for target in web.every_target():
        assert answered(client.prober.draw(target, 10)) == {client.name: 10}


def test_udp_socket_keeps_its_backend(scene: Scene, web: App, client: Host) -> None:
    """Datagrams of one unconnected socket to one service all go to one backend while it lives."""
    backends = set()
    for number in range(10):
        name = f"sticky{number}"
        client.prober.open(name, web.udp(4))
        drawn = answered(client.prober.ask(name, web.udp(4), 20))
        client.prober.close(name)
        assert len(drawn) == 1, drawn
        backends |= set(drawn)
    assert len(backends) > 1
    assert backends <= {pod.name for pod in scene.cluster.pods}


@pytest.mark.parametrize("family", [4, 6, 46])
def test_udp_socket_that_talks_to_two_services_and_a_pod(
    scene: Scene, web: App, family: int
) -> None:
    """rule_19: each answer shows the address that its own question was sent to."""
    pods = scene.cluster.pods
    other = scene.app("resolver")
    # The same backends behind both services: only the port at the backend tells them apart.
    slices = [other.slice(f, pods, number=9090) for f in (4, 6)]
    scene.put(f"{other.name}.json", other.service(), *slices)
    scene.await_backends(other, pods)
    prober = pods[0].prober
    direct_address = pods[4].ipv6 if family == 6 else pods[4].ipv4
    direct = udp(direct_address, 8080, mapped=family == 46)
    prober.open("many", web.udp(family))
    for _ in range(5):
        for target in (web.udp(family), other.udp(family), direct):
            outcome = prober.ask("many", target)[0]
            assert outcome.error == ""
            assert outcome.source == web.shown(target)
    prober.close("many")


def test_udp_socket_moves_when_its_backend_leaves(scene: Scene) -> None:
    """A backend that is no endpoint any more gets no further datagram of a held socket."""
    first, second = scene.cluster.pods[1], scene.cluster.pods[4]
    app = scene.app("moving")
    scene.run(app, [first])
    prober = scene.cluster.pods[0].prober
    prober.open("held", app.udp(4))
    assert answered(prober.ask("held", app.udp(4), 5)) == {first.name: 5}
    scene.put(f"{app.name}.json", app.service(), *app.slices([second]))
    scene.await_backends(app, [second])
    assert answered(prober.ask("held", app.udp(4), 5)) == {second.name: 5}
    prober.close("held")
