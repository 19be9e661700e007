# SPDX-License-Identifier: Apache-2.0
"""A router with a small MTU between the nodes, as an overlay or a tunnel on the way has it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.lab.topology import SERVICE_CIDRS, NodeNet, OutsideNet, Plan, PointToPoint, text_of

ROUTER = ("10.0.0.1", "fd00:10::1")
MTU = 1280  # what IPv6 has at least (RFC 8200 5)


class Hop(PointToPoint):
    """As PointToPoint, but a router stands between any two hosts.

    All hosts have devices with an MTU of 1,500 and know of nothing less. To the first node the
    router forwards that, to all others 1,280 bytes: what is larger and may not be cut it answers
    with an ICMP error. So what comes by the first node is found too large only after it has been
    translated there, both ways. Each host has a device of the router's to itself.
    """

    def lan(self, plan: Plan, netns: Path) -> str:
        """Return a router with a veth to the eth0 of every node and outside host."""
        lines = ["link set lo up"]
        for host in hosts_of(plan):
            device = f"to-{host.name}"
            lines.append(f"link add {device} type veth peer name eth0 netns {netns}/{host.name}")
            lines += [f"address add {a}{_all(a)} dev {device}" for a in ROUTER]
            lines.append(f"link set {device} up")
            most = 1500 if host is plan.nodes[0] else MTU
            for address in (host.ipv4, host.ipv6):
                lines.append(f"route add {address}{_all(address)} dev {device} mtu {most}")
            lines += [f"route add {route} dev {device} onlink mtu {most}" for route in _pods(host)]
        return text_of(lines)

    def node(self, plan: Plan, node: NodeNet) -> str:  # noqa: ARG002 - see Wiring
        """Return the node's addresses and its way to all others."""
        return text_of(["link set lo up", *_uplink(node)])

    def client(self, plan: Plan) -> str:
        """Return the client's addresses, those of all services among them, and its way."""
        local = [f"route add local {cidr} dev lo" for cidr in SERVICE_CIDRS]
        return text_of(["link set lo up", *_uplink(plan.client), *local])

    def stranger(self, plan: Plan) -> str:
        """Return the stranger's addresses and its way; the router knows no services."""
        return text_of(["link set lo up", *_uplink(plan.stranger)])


def hosts_of(plan: Plan) -> list[NodeNet | OutsideNet]:
    """Return all hosts that have an uplink."""
    return [*plan.nodes, *plan.outside]


def _all(address: str) -> str:
    """Return the length of a prefix that is one address."""
    return "/128" if ":" in address else "/32"


def _pods(host: NodeNet | OutsideNet) -> Iterable[str]:
    """Return the way to a node's pods."""
    if isinstance(host, NodeNet):
        yield f"{host.cidr4} via {host.ipv4}"
        yield f"{host.cidr6} via {host.ipv6}"


def _uplink(host: NodeNet | OutsideNet) -> Iterable[str]:
    """Return single addresses, and routes that make the router the way to everybody else."""
    yield f"address add {host.ipv4}/32 dev eth0"
    yield f"address add {host.ipv6}/128 dev eth0 nodad"
    yield "link set eth0 up"
    for router in ROUTER:
        yield f"route add {router}{_all(router)} dev eth0"
        yield f"route add default via {router} dev eth0"
