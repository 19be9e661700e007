# SPDX-License-Identifier: Apache-2.0
"""The fast path (setting fastPath): what may skip the stack, and on which devices (bpf/way.h)."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pyproxy.errors import KernelError
from pyproxy.kernel import netlink, nftables
from pyproxy.kernel.addresses import FAST, PEER
from pyproxy.kernel.devices import Device

# there is one where this network namespace tracks connections, or could at once
TCP_BE_LIBERAL = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
# what bpf_redirect_peer() knows the other end of, and a device at which nothing queues
HAVE_PEERS, NO_QUEUE = frozenset({"veth", "netkit"}), "noqueue"


class FastPath(enum.IntFlag):
    """Which protocols may skip the stack: enum fast_path of bpf/numbers.h."""

    UDP = 1
    TCP = 2


class Covered(Protocol):
    """What is known of the programs on devices: kernel.entries.Entries."""

    def is_last(self, device: Device) -> bool:
        """Return whether nobody's program or filter comes after ours at its ingress."""

    def is_alone(self, device: Device) -> bool:
        """Return whether there is no program or filter but ours at its egress."""


def allowed() -> FastPath:
    """Return what may skip the stack in this network namespace.

    conntrack that sees one packet of a TCP connection in a second takes those for out of its window
    (nf_conntrack_proto_tcp.c: tcp_in_window), unless it is told not to mind.
    """
    try:
        minds = TCP_BE_LIBERAL.read_text(encoding="ascii").strip() == "0"
    except OSError:
        minds = False
    return FastPath.UDP if minds else FastPath.UDP | FastPath.TCP


def skipping_devices(covered: Covered, devices: Iterable[Device]) -> dict[int, int]:
    """Return which devices packets may skip the stack by, FAST and PEER by ifindex.

    By a FAST one they may come: nobody's program or chain comes after ours there, frames have an
    Ethernet header, and no other device gets what it has received but a bridge that is FAST, too
    (what is for the bridge is for the port whose address it has). By a PEER they may go straight to
    its other end: nothing of anybody's sees or delays what leaves by it. Raises OSError.
    """
    links = {each.ifindex: each for each in netlink.links()}
    bridges = {each.ifindex for each in links.values() if each.kind == netlink.BRIDGE}
    chained = nftables.chained_devices()
    found: dict[int, int] = {}
    for device in sorted(devices, key=lambda each: _is_port(links.get(each.ifindex))):
        link = links.get(device.ifindex)
        if not link or not device.has_link_layer or device.name in chained:
            continue
        with contextlib.suppress(KernelError):  # it has vanished
            flags = _flags(covered, device, link)
            if not _is_port(link):
                found[device.ifindex] = flags
            elif link.master in bridges and found.get(link.master, 0) & FAST:
                found[device.ifindex] = flags & FAST
    return found


def _is_port(link: netlink.Link | None) -> bool:
    return link is not None and link.master != 0


def _flags(covered: Covered, device: Device, link: netlink.Link) -> int:
    has_peer = link.kind in HAVE_PEERS and link.leaves and link.qdisc == NO_QUEUE
    return (FAST if covered.is_last(device) else 0) | (
        PEER if has_peer and covered.is_alone(device) else 0
    )
