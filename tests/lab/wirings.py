# SPDX-License-Identifier: Apache-2.0
"""How else nodes and pods are joined: what CNI plugins make besides point-to-point veths."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tests.lab.topology import Bridge, NodeNet, Plan, PointToPoint, text_of

OVERLAY_MTU = 1430
TUN = "tun0"


class BridgeOfPorts(Bridge):
    """A bridge that has the address of one of its ports, as the kernel has it."""

    address = ""


class _Overlay(PointToPoint, ABC):
    """As PointToPoint, but what pods of two nodes send each other goes by a device of its own."""

    device = ""

    @abstractmethod
    def overlay(self, node: NodeNet, other: NodeNet) -> list[str]:
        """Return what makes the device, and the routes by it."""

    def node(self, plan: Plan, node: NodeNet) -> str:
        """Return the node's uplink, and its overlay to the only other node."""
        other = next(each for each in plan.nodes if each.name != node.name)
        return super().node(plan, node) + text_of(
            [
                f"route del {other.cidr4}",
                f"route del {other.cidr6}",
                *self.overlay(node, other),
            ]
        )


class Vxlan(_Overlay):
    """flannel's overlay; pods have larger MTUs than it, so that they have to be told."""

    device = "flannel.1"

    def overlay(self, node: NodeNet, other: NodeNet) -> list[str]:
        """Return a VXLAN device whose only peer is the other node."""
        ends = f"local {node.ipv4} remote {other.ipv4}"
        return [
            f"link add {self.device} type vxlan id 1 dstport 8472 dev eth0 {ends}",
            f"address add {_first(node.cidr4)}/32 dev {self.device}",
            f"address add {_first(node.cidr6)}/128 dev {self.device} nodad",
            f"link set {self.device} up mtu {OVERLAY_MTU}",
            f"route add {other.cidr4} via {_first(other.cidr4)} dev {self.device} onlink",
            f"route add {other.cidr6} via {_first(other.cidr6)} dev {self.device} onlink",
        ]


class Tun(_Overlay):
    """A tunnel without a link-layer header; somebody carries its packets (see pump.py)."""

    device = TUN

    def overlay(self, node: NodeNet, other: NodeNet) -> list[str]:
        """Return a tun device that leads to the other node."""
        return [
            f"tuntap add dev {TUN} mode tun",
            f"link set {TUN} up mtu {OVERLAY_MTU}",
            f"address add {_first(node.cidr4)}/32 dev {TUN}",
            f"address add {_first(node.cidr6)}/128 dev {TUN} nodad",
            f"route add {other.cidr4} dev {TUN}",
            f"route add {other.cidr6} dev {TUN}",
        ]


def _first(cidr: str) -> str:
    """Return a network's first address, as flannel gives it to its devices."""
    return cidr.partition("/")[0]
