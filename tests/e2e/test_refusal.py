# SPDX-License-Identifier: Apache-2.0
"""What a client gets where nobody may answer: refused at once, or dropped as kube-proxy drops."""

from __future__ import annotations

import pytest

from tests.e2e.scene import App, Scene
from tests.lab.hosts import Host
from tests.lab.manifests import NOT_READY
from tests.lab.prober import tcp

pytestmark = pytest.mark.anywhere

FAMILIES = (4, 6, 46)


@pytest.fixture(scope="module")
def idle(scene: Scene) -> App:
    """A service whose only endpoints are not ready."""
    app = scene.app("idle")
    scene.put("idle.json", app.service(), *app.slices(scene.cluster.pods, NOT_READY))
    for node in scene.cluster.nodes:
        for family in (4, 6):
            scene.await_error(node, app.tcp(family), "ECONNREFUSED")
            scene.await_error(node, app.udp(family), "ECONNREFUSED")
    return app


@pytest.fixture(scope="module")
def local_only(scene: Scene) -> App:
    """A service of internalTrafficPolicy Local with its only endpoint on node1."""
    app = scene.app("local")
    pods = [scene.cluster.nodes[0].pods[1]]
    scene.put("local.json", app.service(internalTrafficPolicy="Local"), *app.slices(pods))
    for family in (4, 6):
        scene.await_answers(scene.cluster.nodes[0], app.tcp(family), pods)
    return app


@pytest.fixture(params=["pod", "node"])
def client(request: pytest.FixtureRequest, scene: Scene) -> Host:
    """A pod of node1, or a process of node2."""
    nodes = scene.cluster.nodes
    return nodes[0].pods[0] if request.param == "pod" else nodes[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connected_udp_socket_without_endpoints_is_refused_at_once(
    scene: Scene, idle: App, client: Host, family: int
) -> None:
    """Its connect, or by packets its first recv, gives ECONNREFUSED within 0.1 s; never EPERM."""
    outcome = client.prober.once(idle.udp(family, connected=True))
    step = "recv" if scene.by_packets(client) else "connect"
    assert (outcome.error, outcome.step) == ("ECONNREFUSED", step)
    assert outcome.seconds < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unconnected_udp_socket_without_endpoints_is_refused_at_once(
    scene: Scene, idle: App, client: Host, family: int
) -> None:
    """Its first sendto gives ECONNREFUSED; no ICMP error reaches it by packets (udp(7))."""
    outcome = client.prober.once(idle.udp(family, timeout_s=0.3))
    if scene.by_packets(client):
        assert (outcome.error, outcome.step) == ("TIMEOUT", "recv")
    else:
        assert (outcome.error, outcome.step) == ("ECONNREFUSED", "sendto")
        assert outcome.seconds < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_without_endpoints_is_refused_at_once(idle: App, client: Host, family: int) -> None:
    """TCP's connect gives ECONNREFUSED within 0.1 s; never EPERM."""
    outcome = client.prober.once(idle.tcp(family))
    assert (outcome.error, outcome.step) == ("ECONNREFUSED", "connect")
    assert outcome.seconds < 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["pod", "node"])
def test_local_policy_without_local_endpoint_times_out(
    scene: Scene, local_only: App, family: int, where: str
) -> None:
    """Where kube-proxy drops, connect gets no answer at all within its patience."""
    node = scene.cluster.nodes[1]
    client = node.pods[0] if where == "pod" else node
    scene.await_error(client, local_only.tcp(family, timeout_s=0.5), "TIMEOUT")
    outcome = client.prober.once(local_only.tcp(family, timeout_s=1.0))
    assert (outcome.error, outcome.step) == ("TIMEOUT", "connect")


@pytest.mark.parametrize("connected", [True, False], ids=["connect", "sendto"])
def test_local_policy_without_local_endpoint_drops_datagrams(
    scene: Scene, local_only: App, connected: bool
) -> None:
    """A datagram that kube-proxy would drop is answered by nobody and refused by nobody."""
    client = scene.cluster.nodes[1].pods[0]
    target = local_only.udp(4, connected=connected, timeout_s=0.5)
    outcome = scene.await_error(client, target, "TIMEOUT")
    assert outcome.step == "recv"


def test_local_policy_uses_the_local_endpoint(scene: Scene, local_only: App) -> None:
    """On the node that has one, the Local policy answers."""
    node = scene.cluster.nodes[0]
    outcome = node.pods[0].prober.once(local_only.tcp(4))
    assert outcome.who == node.pods[1].name


@pytest.mark.lab
def test_other_port_of_a_cluster_ip_is_not_answered(scene: Scene, idle: App) -> None:
    """A port that the service doesn't have is no frontend: the packets leave untranslated."""
    cluster = scene.cluster
    for address in idle.addresses:
        assert cluster.pods[0].prober.once(tcp(address, 8081)).who == cluster.client.name
