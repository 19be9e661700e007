# SPDX-License-Identifier: Apache-2.0
"""Every way to a service on every wiring, beside the rules that CNI plugins and operators have.

All clients are outside of the agents' cgroups, so that everything but the node's own goes by
packets. The address that a backend sees is the client's where it is a pod's; who is hidden by a
plugin's rules besides is not ours to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.others import Other, beside
from tests.e2e.scene import FAMILIES, App, Scene, counters, dangling
from tests.e2e.wires import Wires, fast, set_hairpin
from tests.lab import firewalls
from tests.lab.hosts import Host, await_ready
from tests.lab.manifests import endpoint, endpoint_slice, service, slice_port
from tests.lab.prober import Target, answered, tcp, udp
from tests.lab.topology import Bridge, PointToPoint, Wiring
from tests.lab.waiting import wait_for
from tests.lab.wirings import BridgeOfPorts, Tun, Vxlan

pytestmark = pytest.mark.once

DRAWS = 10
BULK = 2_000_000
SIZES = "1400,4000,60000"
NODE_PORT, ECHO_PORT, DATAGRAM_PORT = 31_200, 7778, 7779
STRICT = (("net/ipv4/conf/all/rp_filter", "1"),)
LIBERAL = ((firewalls.LIBERAL, "1"),)
NO_BRIDGE_RULES = (
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
)


class Kind(NamedTuple):
    """A wiring, and what is set on every node besides.

    `hairpin` is its bridge's mode; `fast`: what is translated may skip the stack; `others`: there
    are programs and filters of others on all devices. Of rules the first ones decide.
    """

    wiring: Callable[[], Wiring]
    rules: tuple[firewalls.Rules, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    hairpin: bool = False
    fast: bool = False
    others: bool = False


KINDS = {
    "point-to-point, flannel, rp_filter": Kind(
        PointToPoint, (firewalls.no_invalid, firewalls.flannel), STRICT
    ),
    "point-to-point, kindnet": Kind(PointToPoint, (firewalls.no_invalid, firewalls.kindnet)),
    "point-to-point, programs of others": Kind(PointToPoint, others=True),
    "point-to-point, fast path": Kind(
        PointToPoint, (firewalls.no_invalid, firewalls.kindnet), (*STRICT, *LIBERAL), fast=True
    ),
    "bridge, fast path": Kind(
        Bridge, (firewalls.no_invalid, firewalls.flannel), LIBERAL, hairpin=True, fast=True
    ),
    "bridge, bridge-nf-call 1": Kind(Bridge, (firewalls.no_invalid, firewalls.flannel)),
    "bridge, bridge-nf-call 0": Kind(Bridge, (firewalls.flannel,), NO_BRIDGE_RULES),
    "hairpin bridge, rp_filter": Kind(BridgeOfPorts, (firewalls.flannel,), STRICT, hairpin=True),
    "vxlan, fast path": Kind(
        Vxlan, (firewalls.no_invalid, firewalls.flannel), (*STRICT, *LIBERAL), fast=True
    ),
    "vxlan, flannel": Kind(Vxlan, (firewalls.no_invalid, firewalls.flannel)),
    "tun": Kind(Tun, (firewalls.no_invalid, firewalls.flannel), STRICT),
}
WAYS = (
    "pod-here", "pod-elsewhere", "itself", "pod-node-port", "outside-here", "outside-elsewhere",
    "stranger", "node",
)  # fmt: skip


@pytest.fixture(scope="module")
def wires(make_cluster: MakeCluster, shared: Scene) -> Iterator[Wires]:
    """The clusters, one after the other."""
    with closing(Wires(make_cluster, shared)) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind, one after the other."""
    return KINDS[request.param]


@pytest.fixture(scope="module")
def wired(kind: Kind, wires: Wires) -> Iterator[Scene]:
    """A cluster with the rules and sysctls of a kind."""
    found = wires.of(kind.wiring)
    pairs = list(zip(found.cluster.nodes, found.cluster.plan.nodes, strict=True))
    with ExitStack() as undo:
        for node, net in pairs:
            for name, value in kind.sysctls:
                undo.callback(firewalls.set_sysctl, node, name, firewalls.get_sysctl(node, name))
                firewalls.set_sysctl(node, name, value)
            for pod in node.pods if kind.hairpin else ():
                undo.callback(set_hairpin, node, pod, "off")
                set_hairpin(node, pod, "on")
            undo.callback(firewalls.clear_rules, node)
            for rules in kind.rules:
                firewalls.set_rules(node, net, rules)
        if kind.fast:
            undo.enter_context(fast(found))
        yield found
    for agent in found.agents:
        assert dangling(agent) == []
    found.clear()


@pytest.fixture(scope="module")
def others(kind: Kind, wired: Scene) -> Iterator[list[Other]]:
    """Programs that others have on the nodes' devices."""
    if not kind.others:
        yield []
        return
    with beside(wired) as found:
        yield found


class Backend(NamedTuple):
    """A pod of the second node, and the service in front of it."""

    app: App
    pod: Host


@pytest.fixture(scope="module")
def backend(wired: Scene, others: list[Other]) -> Iterator[Backend]:  # noqa: ARG001 - see others
    """An application that answers, gives back what it gets, and datagrams of any size."""
    pod = wired.cluster.nodes[1].pods[1]
    made = wired.app("wired")
    servers = [
        pod.python("echo.py", "serve", str(ECHO_PORT)),
        pod.python("datagrams.py", "serve", str(DATAGRAM_PORT)),
    ]
    for server in servers:
        await_ready(server, pod.name)
    ports, given = [], []
    for number, (name, protocol, port, target) in enumerate(
        (
            ("web", "TCP", 80, 8080),
            ("dns", "UDP", 53, 8080),
            ("echo", "TCP", 81, ECHO_PORT),
            ("large", "UDP", 54, DATAGRAM_PORT),
        )
    ):
        ports.append(
            {
                "name": name, "protocol": protocol, "port": port, "targetPort": target,
                "nodePort": NODE_PORT + number,
            }
        )  # fmt: skip
        given.append(slice_port(target, protocol, name=name))
    slices = [
        endpoint_slice(made.name, family, [endpoint(pod, family)], given) for family in FAMILIES
    ]
    wired.put("wired.json", service(made.name, made.addresses, ports, type="NodePort"), *slices)
    yield Backend(made, pod)
    for server in servers:
        server.kill()
        server.wait(10)


class Way(NamedTuple):
    """Who asks, at which address, and whether by a NodePort."""

    client: Host
    address: str
    by_node_port: bool

    def port(self, name: str) -> int:
        """Return the number of a service's port there."""
        ports = {"web": 80, "dns": 53, "echo": 81, "large": 54}
        return NODE_PORT + list(ports).index(name) if self.by_node_port else ports[name]

    def targets(self) -> list[Target]:
        """Return each kind of socket."""
        to = self.address
        return [
            tcp(to, self.port("web")),
            udp(to, self.port("dns")),
            udp(to, self.port("dns"), connected=True),
        ]

    def run(self, script: str, name: str, *arguments: str) -> str:
        """Run a script that asks; return what it says went wrong."""
        done = self.client.script(script, "ask", self.address, str(self.port(name)), *arguments)
        return done.stderr if done.returncode else ""


def way_of(wired: Scene, backend: Backend, name: str, family: int) -> Way:
    """Return a way to the service by its name."""
    cluster = wired.cluster
    one, two = cluster.nodes
    ip = backend.app.address(family)
    return {
        "pod-here": Way(cluster.free(two.pods[0]), ip, by_node_port=False),
        "pod-elsewhere": Way(cluster.free(one.pods[0]), ip, by_node_port=False),
        "itself": Way(cluster.free(backend.pod), ip, by_node_port=False),
        "pod-node-port": Way(cluster.free(one.pods[0]), two.address(family), by_node_port=True),
        "outside-here": Way(cluster.client, two.address(family), by_node_port=True),
        "outside-elsewhere": Way(cluster.client, one.address(family), by_node_port=True),
        "stranger": Way(cluster.stranger, ip, by_node_port=False),
        "node": Way(one, ip, by_node_port=False),
    }[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", WAYS)
def test_every_way(wired: Scene, backend: Backend, name: str, family: int) -> None:
    """Connections, datagrams of each kind, much data, and datagrams that are cut to pieces."""
    way = way_of(wired, backend, name, family)
    wait_for(partial(_answers, way, backend.pod), 5, "the backend's answer")
    before = [counters(agent, family)["packet_fast"] for agent in wired.agents]
    for target in way.targets():
        assert answered(way.client.prober.draw(target, DRAWS)) == {backend.pod.name: DRAWS}, target
    assert way.run("echo.py", "echo", str(BULK)) == ""
    assert way.run("datagrams.py", "large", SIZES, "4") == ""
    after = [counters(agent, family)["packet_fast"] for agent in wired.agents]
    assert (after != before) is is_fast(wired, name)


def is_fast(wired: Scene, name: str) -> bool:
    """Return whether packets of a way skip the stack where that is wanted.

    Not those of a node's own sockets, nor what a plugin masquerades, which is no connection's.
    """
    if not any("--pyproxy-config" in option for option in wired.agents[0].options):
        return False
    masquerades = type(wired.cluster.wiring) is not PointToPoint  # flannel's rules
    return name != "node" and not (masquerades and name in {"outside-elsewhere", "stranger"})


def test_the_wiring_is_what_it_says(
    kind: Kind, wired: Scene, backend: Backend, others: list[Other]
) -> None:
    """All that it has sees the packets, so that it is what the other tests pass."""
    one, net = wired.cluster.nodes[0], wired.cluster.plan.nodes[0]
    way = way_of(wired, backend, "pod-elsewhere", 4)
    device = getattr(wired.cluster.wiring, "device", "eth0")
    before = _sent(one, device)
    assert _answers(way, backend.pod)
    assert _sent(one, device) > before
    counted = firewalls.counted(one, net)
    assert [rules for rules in kind.rules if not counted(rules)] == []
    assert [each.where for each in others if not each.program.seen] == []


def _sent(host: Host, device: str) -> int:
    """Return how many packets a device has sent."""
    shown = host.run("ip", "-j", "-s", "link", "show", device, check=True).stdout
    return int(json.loads(shown)[0]["stats64"]["tx"]["packets"])


def _answers(way: Way, pod: Host) -> bool:
    """Return whether a pod answers: before there is a service, who has a route for it may."""
    return way.client.prober.once(way.targets()[0]).who == pod.name
