# SPDX-License-Identifier: Apache-2.0
"""Who has which address, and the `ip -batch` texts that wire it: pure, no system call.

A topology is an object with `lan`, `node`, `plug`, `pod`, `client` and `stranger` texts (see
`Wiring`). `PointToPoint` has each pod behind a veth of its own, as the CNI plugin ptp does it;
`Bridge` has a node's pods on one bridge, as the plugin bridge and flannel do. Addresses may be
the same in every cluster: they exist inside its namespaces only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")


class PodNet(NamedTuple):
    """A pod's name and addresses; `device` is the host side of its veth."""

    name: str
    device: str
    ipv4: str
    ipv6: str


class NodeNet(NamedTuple):
    """A node's name, its addresses on the lan, its pod CIDRs with their gateways, its pods."""

    name: str
    ipv4: str
    ipv6: str
    cidr4: str
    cidr6: str
    gateway4: str
    gateway6: str
    pods: tuple[PodNet, ...]


class OutsideNet(NamedTuple):
    """An outside host's addresses on the lan."""

    name: str
    ipv4: str
    ipv6: str


class Plan(NamedTuple):
    """All namespaces of a cluster but the lan's."""

    nodes: tuple[NodeNet, ...]
    client: OutsideNet
    stranger: OutsideNet

    @property
    def outside(self) -> tuple[OutsideNet, ...]:
        """The hosts that are no nodes."""
        return self.client, self.stranger


class Wiring(Protocol):
    """What makes a topology: one `ip -batch` text for each namespace.

    `netns` is the directory of the namespaces' files; `ip` takes a path for a name.
    """

    def lan(self, plan: Plan, netns: Path) -> str:
        """Return what joins the uplinks of all hosts, run in the lan's namespace."""

    def node(self, plan: Plan, node: NodeNet) -> str:
        """Return a node's uplink and its routes."""

    def plug(self, node: NodeNet, pod: PodNet, netns: Path) -> str:
        """Return what joins a pod to its node, run in the node's namespace."""

    def pod(self, node: NodeNet, pod: PodNet) -> str:
        """Return a pod's addresses and routes."""

    def client(self, plan: Plan) -> str:
        """Return the client's addresses and routes."""

    def stranger(self, plan: Plan) -> str:
        """Return the addresses and routes of a host that reaches services through a node."""


def plan_cluster(nodes: int, pods_per_node: int) -> Plan:
    """Give names and addresses to `nodes` nodes of `pods_per_node` pods and to outside hosts."""
    client = OutsideNet("client", "10.0.0.200", "fd00:10::200")
    stranger = OutsideNet("stranger", "10.0.0.201", "fd00:10::201")
    return Plan(tuple(_node(n, pods_per_node) for n in range(1, nodes + 1)), client, stranger)


def _node(number: int, pods: int) -> NodeNet:
    return NodeNet(
        name=f"node{number}",
        ipv4=f"10.0.0.{10 + number}",
        ipv6=f"fd00:10::{10 + number}",
        cidr4=f"10.244.{number}.0/24",
        cidr6=f"fd00:10:244:{number}::/64",
        gateway4=f"10.244.{number}.1",
        gateway6=f"fd00:10:244:{number}::1",
        pods=tuple(pod_net(number, k) for k in range(1, pods + 1)),
    )


def pod_net(node: int, number: int) -> PodNet:
    """Return name and addresses of a node's pod; both are counted from 1."""
    return PodNet(
        name=f"pod{node}-{number}",
        device=f"veth-pod{number}",
        ipv4=f"10.244.{node}.{10 + number}",
        ipv6=f"fd00:10:244:{node}::{10 + number}",
    )


class PointToPoint:
    """Nodes on one bridged lan, pods behind veths, pod CIDRs routed from node to node."""

    def lan(self, plan: Plan, netns: Path) -> str:
        """Return a bridge with a veth to the eth0 of every node and outside host."""
        lines = ["link set lo up", "link add lan type bridge", "link set lan up"]
        names = [node.name for node in plan.nodes] + [host.name for host in plan.outside]
        for name in names:
            port = f"to-{name}"
            lines += [
                f"link add {port} type veth peer name eth0 netns {netns}/{name}",
                f"link set {port} master lan up",
            ]
        return text_of(lines)

    def node(self, plan: Plan, node: NodeNet) -> str:
        """Return the node's addresses and its routes to the others."""
        lines = ["link set lo up", *_uplink(node.ipv4, node.ipv6)]
        lines += _routes_to(other for other in plan.nodes if other.name != node.name)
        lines.append(f"route add default via {plan.client.ipv4}")
        lines.append(f"route add default via {plan.client.ipv6}")
        return text_of(lines)

    def plug(self, node: NodeNet, pod: PodNet, netns: Path) -> str:
        """Return a veth with the node's gateway addresses and host routes to the pod."""
        return text_of(
            [
                f"link add {pod.device} type veth peer name eth0 netns {netns}/{pod.name}",
                f"address add {node.gateway4}/32 dev {pod.device}",
                f"address add {node.gateway6}/128 dev {pod.device} nodad",
                f"link set {pod.device} up",
                f"route add {pod.ipv4}/32 dev {pod.device} scope link",
                f"route add {pod.ipv6}/128 dev {pod.device}",
            ]
        )

    def pod(self, node: NodeNet, pod: PodNet) -> str:
        """Return single addresses and a default route through the node's gateway address."""
        return text_of(
            [
                "link set lo up",
                f"address add {pod.ipv4}/32 dev eth0",
                f"address add {pod.ipv6}/128 dev eth0 nodad",
                "link set eth0 up",
                f"route add {node.gateway4}/32 dev eth0 scope link",
                f"route add default via {node.gateway4} dev eth0 src {pod.ipv4}",
                f"route add {node.gateway6}/128 dev eth0",
                f"route add default via {node.gateway6} dev eth0 src {pod.ipv6}",
            ]
        )

    def client(self, plan: Plan) -> str:
        """Return the client's addresses and routes to the pods (for direct traffic).

        The client is also the nodes' default gateway and owns every service address: what
        leaves a node untranslated reaches it and shows as an answer of the client's.
        """
        client = plan.client
        lines = ["link set lo up", *_uplink(client.ipv4, client.ipv6)]
        lines += [f"route add local {cidr} dev lo" for cidr in SERVICE_CIDRS]
        return text_of([*lines, *_routes_to(plan.nodes)])

    def stranger(self, plan: Plan) -> str:
        """Return the stranger's addresses, and routes through the first node to all services."""
        stranger, node = plan.stranger, plan.nodes[0]
        lines = ["link set lo up", *_uplink(stranger.ipv4, stranger.ipv6)]
        gateways = (node.ipv4, node.ipv6)
        for cidr, gateway in zip(SERVICE_CIDRS, gateways, strict=True):
            lines.append(f"route add {cidr} via {gateway}")
        return text_of([*lines, *_routes_to(plan.nodes)])


class Bridge(PointToPoint):
    """As PointToPoint, but a node's pods are ports of its bridge `cni0`, on one subnet.

    What pods of a node send each other never passes its IP layer; a pod that is told to send to
    a service by way of the node could do so directly, which is what redirects are about. The
    bridge has an address of its own, as systemd gives one to every bridge.
    """

    address = "address 02:00:00:00:00:01"

    def node(self, plan: Plan, node: NodeNet) -> str:
        """Return what PointToPoint has, and a bridge with the gateway's addresses."""
        return super().node(plan, node) + text_of(
            [
                f"link add cni0 {self.address} type bridge",
                f"address add {node.gateway4}/24 dev cni0",
                f"address add {node.gateway6}/64 dev cni0 nodad",
                "link set cni0 up",
            ]
        )

    def plug(self, node: NodeNet, pod: PodNet, netns: Path) -> str:  # noqa: ARG002 - see Wiring
        """Return a veth that is a port of the bridge."""
        return text_of(
            [
                f"link add {pod.device} type veth peer name eth0 netns {netns}/{pod.name}",
                f"link set {pod.device} master cni0 up",
            ]
        )

    def pod(self, node: NodeNet, pod: PodNet) -> str:
        """Return addresses in the node's subnet and a default route through its bridge."""
        return text_of(
            [
                "link set lo up",
                f"address add {pod.ipv4}/24 dev eth0",
                f"address add {pod.ipv6}/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via {node.gateway4}",
                f"route add default via {node.gateway6}",
            ]
        )


def text_of(lines: list[str]) -> str:
    """Return the lines of an `ip -batch` text."""
    return "\n".join(lines) + "\n"


def _uplink(ipv4: str, ipv6: str) -> list[str]:
    return [
        f"address add {ipv4}/24 dev eth0",
        f"address add {ipv6}/64 dev eth0 nodad",
        "link set eth0 up",
    ]


def _routes_to(nodes: Iterable[NodeNet]) -> list[str]:
    lines: list[str] = []
    for node in nodes:
        lines.append(f"route add {node.cidr4} via {node.ipv4}")
        lines.append(f"route add {node.cidr6} via {node.ipv6}")
    return lines
