# SPDX-License-Identifier: Apache-2.0
"""Policies that a CNI plugin enforces on pod addresses hold on every way to a service.

Each way is tried twice: while its packets, with the addresses that they are to have on the node
that enforces, are all that passes, and while they are all that does not. So what is asserted is
that the policy sees those addresses, not only that it sees something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene
from tests.e2e.wires import Wires, fast
from tests.lab.firewalls import LIBERAL, get_sysctl, set_sysctl
from tests.lab.hosts import Host, Node
from tests.lab.manifests import endpoint, endpoint_slice, service, slice_port
from tests.lab.policies import Form, Policy, Side
from tests.lab.prober import Target, tcp, udp
from tests.lab.topology import Bridge, PointToPoint, Wiring
from tests.lab.wirings import Vxlan

pytestmark = pytest.mark.once

NODE_PORTS = {"web": 31_500, "dns": 31_501}
PORTS = {"web": 80, "dns": 53}
BACKEND_PORT = 8080
# a policy that drops is noticed by waiting in vain
IMPATIENT_S = 0.15
# the fast path takes TCP with the first; a node tells of each refusal with the others
SYSCTLS = {LIBERAL: "1", "net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0"}


class Kind(NamedTuple):
    """A wiring, who enforces policies there, and whether the fast path is on."""

    wiring: Callable[[], Wiring]
    form: Form
    fast: bool = False


KINDS = {
    "point-to-point, nftables": Kind(PointToPoint, Form.NFTABLES),
    "point-to-point, iptables, fast path": Kind(PointToPoint, Form.IPTABLES, fast=True),
    "bridge, iptables": Kind(Bridge, Form.IPTABLES),
    "bridge, nftables, fast path": Kind(Bridge, Form.NFTABLES, fast=True),
    "vxlan, iptables": Kind(Vxlan, Form.IPTABLES),
}


class Guarded(NamedTuple):
    """A service in front of one pod, the second of the second node, in this scene."""

    scene: Scene
    kind: Kind
    app: App
    pod: Host


@pytest.fixture(scope="module")
def wires(make_cluster: MakeCluster, shared: Scene) -> Iterator[Wires]:
    """The clusters, one after the other."""
    with closing(Wires(make_cluster, shared)) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def guarded(request: pytest.FixtureRequest, wires: Wires) -> Iterator[Guarded]:
    """A cluster of a kind with its service."""
    kind = KINDS[request.param]
    scene = wires.of(kind.wiring)
    with ExitStack() as undo:
        for node in scene.cluster.nodes:
            for name, value in SYSCTLS.items():
                undo.callback(set_sysctl, node, name, get_sysctl(node, name))
                set_sysctl(node, name, value)
        if kind.fast:
            undo.enter_context(fast(scene))
        undo.callback(scene.clear)
        yield _serve(scene, kind)


def _serve(scene: Scene, kind: Kind) -> Guarded:
    app, pod = scene.app("guarded"), scene.cluster.nodes[1].pods[1]
    protocols = {"web": "TCP", "dns": "UDP"}
    ports = [
        {"name": name, "protocol": protocols[name], "port": PORTS[name], "nodePort": number}
        for name, number in NODE_PORTS.items()
    ]
    given = [slice_port(BACKEND_PORT, protocols[name], name=name) for name in PORTS]
    slices = [
        endpoint_slice(app.name, family, [endpoint(pod, family)], given) for family in FAMILIES
    ]
    scene.put("guarded.json", service(app.name, app.addresses, ports, type="NodePort"), *slices)
    scene.await_backends(app, [pod])
    return Guarded(scene, kind, app, pod)


class Way(NamedTuple):
    """Who asks at which address, and whose address the policy of the backend's node sees.

    `ports` has the port of the TCP and that of the UDP service; `refusal`: what a client may be
    told besides where the packet never leaves its node.
    """

    client: Host
    address: str
    ports: tuple[int, int]
    seen: str
    refusal: str = ""

    def targets(self, timeout_s: float = 3.0) -> list[Target]:
        """Return a TCP and a connected UDP socket's destination: both are told of refusals."""
        web, dns = self.ports
        return [
            tcp(self.address, web, timeout_s=timeout_s),
            udp(self.address, dns, connected=True, timeout_s=timeout_s),
        ]


DIRECT, CLUSTER, NODES = (BACKEND_PORT,) * 2, tuple(PORTS.values()), tuple(NODE_PORTS.values())
OF_PODS = ("direct-here", "direct-elsewhere", "pod", "socket")
WAYS = (
    "direct-here", "direct-elsewhere", "direct-outside", "pod-here", "pod-elsewhere",
    "socket-here", "socket-elsewhere", "node", "node-elsewhere", "outside-here",
    "outside-elsewhere", "pod-node-port-here", "pod-node-port-elsewhere", "stranger",
)  # fmt: skip


def way_of(guarded: Guarded, name: str, family: int) -> Way:
    """Return a way to the backend by its name."""
    cluster = guarded.scene.cluster
    one, two = cluster.nodes
    here, elsewhere = cluster.free(two.pods[0]), cluster.free(one.pods[0])
    service_ip, pod_ip = guarded.app.address(family), guarded.pod.address(family)
    hidden = _source(one, pod_ip)
    clients: dict[str, tuple[Host, str, tuple[int, ...], str]] = {
        "direct-here": (here, pod_ip, DIRECT, ""),
        "direct-elsewhere": (elsewhere, pod_ip, DIRECT, ""),
        "direct-outside": (cluster.client, pod_ip, DIRECT, ""),
        "pod-here": (here, service_ip, CLUSTER, ""),
        "pod-elsewhere": (elsewhere, service_ip, CLUSTER, ""),
        "socket-here": (two.pods[0], service_ip, CLUSTER, ""),
        "socket-elsewhere": (one.pods[0], service_ip, CLUSTER, ""),
        "node": (two, service_ip, CLUSTER, _source(two, pod_ip)),
        "node-elsewhere": (one, service_ip, CLUSTER, hidden),
        "outside-here": (cluster.client, two.address(family), NODES, ""),
        "outside-elsewhere": (cluster.client, one.address(family), NODES, hidden),
        "pod-node-port-here": (here, two.address(family), NODES, ""),
        "pod-node-port-elsewhere": (elsewhere, one.address(family), NODES, hidden),
        "stranger": (cluster.stranger, service_ip, CLUSTER, hidden),
    }
    client, address, ports, seen = clients[name]
    refusal = "EPERM" if name == "node" else ""
    return Way(client, address, (ports[0], ports[1]), seen or client.address(family), refusal)


def _source(node: Host, to: str) -> str:
    """Return the address from which a node sends to another one, as its routes have it."""
    shown = node.run("ip", "-j", "route", "get", to, check=True).stdout
    return str(json.loads(shown)[0]["prefsrc"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", WAYS)
def test_who_may_reach_a_pod(guarded: Guarded, name: str, family: int) -> None:
    """The backend's node decides by the client's address, or by the one that source NAT gives."""
    way = way_of(guarded, name, family)
    only = Policy(way.seen, guarded.pod.address(family), Side.INGRESS)
    try_both(guarded, way, guarded.scene.cluster.nodes[1], only)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in WAYS if name.startswith(OF_PODS)])
def test_whom_a_pod_may_reach(guarded: Guarded, name: str, family: int) -> None:
    """The client's node decides by the backend's address, though the client asks for a service."""
    way = way_of(guarded, name, family)
    node = guarded.scene.cluster.nodes["elsewhere" not in name]
    only = Policy(way.client.address(family), guarded.pod.address(family), Side.EGRESS)
    try_both(guarded, way, node, only)


def try_both(guarded: Guarded, way: Way, node: Node, only: Policy) -> None:
    """Try a way while nothing else passes, and while just that does not, but for what is open."""
    form, prober, held = guarded.kind.form, way.client.prober, way.targets()[0]
    family = held.family
    try:
        form.set(node, family, only)
        for to in way.targets():
            assert prober.once(to).who == guarded.pod.name, to
        assert prober.open("held", held).error == ""
        assert prober.ask("held", held)[0].who == guarded.pod.name
        form.set(node, family, only._replace(isolated=None))
        for to in way.targets(IMPATIENT_S):
            assert prober.once(to).error in {form.value, way.refusal}, to
        assert prober.ask("held", held)[0].who == guarded.pod.name
        prober.close("held")
    finally:
        form.clear(node)
