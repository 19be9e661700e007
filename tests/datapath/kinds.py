# SPDX-License-Identifier: Apache-2.0
"""Kinds of devices that join two hosts, besides a veth pair: each between `near` and `far`.

Debian's kernel has them all; a kernel without one cannot make it, and fails.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from pyproxy.model import Family
from tests.datapath.node import Node, run_ip
from tests.datapath.wire import DEVICE, FAR, NEAR, Wire, end_address, other

LAN, UNDER = "lan", "under"
UNDERLAY = {NEAR: "192.0.2.1", FAR: "192.0.2.2"}
NETEM = "netem delay 2ms reorder 10% loss 1%"
WIREGUARD_PORT = 51_820


def under_it(side: str) -> list[str]:
    """Return what gives a side its address on the underlay."""
    return [f"addr add {UNDERLAY[side]}/24 dev {UNDER}", f"link set {UNDER} up"]


def bond(_: str) -> list[str]:
    """Return a bond of two devices, which takes turns: packets come in any order."""
    lines = [f"link add {DEVICE} type bond mode balance-rr miimon 50"]
    for port in (UNDER, f"{UNDER}2"):
        lines += [f"link set {port} master {DEVICE}", f"link set {port} up"]
    return lines


def vlan(_: str) -> list[str]:
    """Return a VLAN of a device."""
    return [f"link set {UNDER} up", f"link add link {UNDER} name {DEVICE} type vlan id 7"]


def ipip(side: str) -> list[str]:
    """Return a tunnel of IPv4 in IPv4."""
    ends = f"local {UNDERLAY[side]} remote {UNDERLAY[other(side)]}"
    return [*under_it(side), f"link add {DEVICE} type ipip {ends}"]


def vxlan(side: str) -> list[str]:
    """Return an Ethernet over UDP."""
    ends = f"local {UNDERLAY[side]} remote {UNDERLAY[other(side)]}"
    return [*under_it(side), f"link add {DEVICE} type vxlan id 7 dstport 4789 dev {UNDER} {ends}"]


def wireguard(side: str) -> list[str]:
    """Return a tunnel whose peers are known by keys, which have to be told."""
    return [*under_it(side), f"link add {DEVICE} type wireguard"]


def netem(_: str) -> list[str]:
    """Return a bare wire."""
    return [f"link set {UNDER} name {DEVICE}"]


class Kind(NamedTuple):
    """What makes the device of a side out of the veths `under` and `under2`, down as yet.

    `is_tunnel`: it has no link layer, and hosts behind it are reached without a gateway. `loses`:
    packets get lost, and come in any order.
    """

    lines: Callable[[str], list[str]]
    families: tuple[Family, ...] = tuple(Family)
    is_tunnel: bool = False
    loses: bool = False


# what every kernel has that the tests run on, and what only the one of the virtual machine has
EVERYWHERE = {"vxlan": Kind(vxlan)}
IN_GUEST = {
    "vlan": Kind(vlan),
    "bond": Kind(bond),
    "wireguard": Kind(wireguard, is_tunnel=True),
    "ipip": Kind(ipip, (Family.IPV4,), is_tunnel=True),
    "netem": Kind(netem, loses=True),
}
KINDS = IN_GUEST if os.environ.get("PYPROXY_GUEST") else EVERYWHERE


class Joined(Wire):
    """Both sides joined by a device of a kind, and by a plain veth pair, `lan`."""

    def __init__(self, node: Node, undo: ExitStack, kind: Kind) -> None:
        self.kind = kind
        super().__init__(node, undo)

    def plug(self, ifindex: int = 0) -> None:
        """Make the devices; what they are made of is there, too."""
        assert not ifindex
        near, far = self.paths[NEAR], self.paths[FAR]
        for name in (LAN, UNDER, f"{UNDER}2"):
            run_ip(near, f"link add {name} type veth peer name {name} netns {far}")
        for side, path in self.paths.items():
            run_ip(path, *self.kind.lines(side), f"link set {DEVICE} up", f"link set {LAN} up")
        if self.kind.lines is wireguard:
            self._meet()
        if self.kind.loses:
            for path in self.paths.values():
                self.run(path, "tc", "qdisc", "add", "dev", DEVICE, "root", *NETEM.split())

    @staticmethod
    def run(namespace: Path, *command: str, text: str = "") -> str:
        """Run a command in a namespace with a text as its input; return what it prints."""
        argv = ["nsenter", f"--net={namespace}", *command]
        done = subprocess.run(argv, input=text, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def _meet(self) -> None:
        """Tell the ends of a WireGuard tunnel each other's keys."""
        public = {}
        for side, path in self.paths.items():
            private = self.run(path, "wg", "genkey")
            public[side] = self.run(path, "wg", "pubkey", text=private)
            key = ("listen-port", str(WIREGUARD_PORT), "private-key", "/dev/stdin")
            self.run(path, "wg", "set", DEVICE, *key, text=private)
        for side, path in self.paths.items():
            where = f"{UNDERLAY[other(side)]}:{WIREGUARD_PORT}"
            peer = ("peer", public[other(side)], "endpoint", where)
            self.run(path, "wg", "set", DEVICE, *peer, "allowed-ips", "0.0.0.0/0,::/0")

    def address(self, side: str, device: str = DEVICE) -> None:
        """Give a side its addresses on both devices, and its routes by the one of the kind."""
        path, kind = self.paths[side], self.kind
        for family in kind.families:
            length, dad = (24, "") if family is Family.IPV4 else (64, " nodad")
            gateway = "" if kind.is_tunnel else f"via {end_address(family, other(side))} "
            to = OUTSIDE if side == NEAR else SERVICES
            lines = [
                f"addr add {end_address(family, side)}/{length} dev {device}{dad}",
                f"addr add {lan_address(family, side)}/{length} dev {LAN}{dad}",
            ]
            if side == FAR:
                whole = 8 * family.address_bytes
                lines.append(f"addr add {client_address(family)}/{whole} dev lo{dad}")
            run_ip(path, *lines, f"route add {to[family]} {gateway}dev {device}")


# networks behind the far side, and of services
OUTSIDE = {Family.IPV4: "10.9.0.0/24", Family.IPV6: "fd00:9::/64"}
SERVICES = {Family.IPV4: "10.96.0.0/24", Family.IPV6: "fd00:96::/64"}


def client_address(family: Family) -> str:
    """Return the address of a client behind the far side."""
    return "10.9.0.2" if family is Family.IPV4 else "fd00:9::2"


def lan_address(family: Family, side: str) -> str:
    """Return the address of an end of the veth pair."""
    last = 1 if side == NEAR else 2
    return f"10.3.0.{last}" if family is Family.IPV4 else f"fd00:3::{last}"
