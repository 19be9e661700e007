# SPDX-License-Identifier: Apache-2.0
"""Whether pods of this node reach each other by a bridge, past the node's IP layer.

There nothing tells a connected UDP socket that its backend has left, so that datagrams to backends
of this node are left to packets (is_left_to_bridge() of bpf/sock.h): which takes a bridge that
sends what pods have for a service to the node, and programs on all of its ports.
"""

from __future__ import annotations

from collections.abc import Collection

from pyproxy.kernel import netlink
from pyproxy.kernel.addresses import OF_PODS
from pyproxy.model import Family


def bridged_families(covered: Collection[int], families: Collection[Family]) -> set[Family]:
    """Return for which of `families` there are pods on a bridge, all with a way to the services.

    `covered` are the devices with programs, by ifindex. A bridge without an address is no pod's
    gateway, and one that leads out of the node need not be: where pods are on such a one, or on a
    port that is not covered, no family is returned. Raises OSError.
    """
    joined = {bridge: netlink.ports(bridge) for bridge in netlink.bridges()}
    of_pods = {
        bridge: ports for bridge, ports in joined.items() if any(p.kind in OF_PODS for p in ports)
    }
    if not all(
        port.kind in OF_PODS and port.ifindex in covered
        for ports in of_pods.values()
        for port in ports
    ):
        return set()
    return {family for family in families if of_pods and of_pods.keys() <= _addressed(family)}


def _addressed(family: Family) -> set[int]:
    return {own.ifindex for own in netlink.primary_addresses(family)}
