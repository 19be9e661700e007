# SPDX-License-Identifier: Apache-2.0
"""Ports of services that sockets could get by themselves are reserved by the agent (rule 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel import ports
from tests.e2e.scene import FAMILIES, Scene
from tests.lab import netns
from tests.lab.hosts import Host
from tests.lab.manifests import service
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

NODE_PORT, OTHERS = 31_190, {8_080}
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.fixture
def node(scene: Scene) -> Iterator[Host]:
    """A node whose sockets may get NodePorts; an operator has reserved another port."""
    host = scene.cluster.nodes[0]
    before = netns.inside(host.netns, lambda: RANGE.read_text(encoding="ascii"))
    netns.inside(host.netns, lambda: RANGE.write_text("20000 60999", encoding="ascii"))
    netns.inside(host.netns, lambda: ports.reserve_ports(OTHERS))
    yield host
    netns.inside(host.netns, lambda: ports.reserve_ports(()))
    netns.inside(host.netns, lambda: RANGE.write_text(before, encoding="ascii"))


def reserved(node: Host) -> set[int]:
    """Return what the node's sysctl says."""
    return netns.inside(node.netns, ports.reserved_ports)


def test_a_node_port_is_reserved_while_it_is_served(scene: Scene, node: Host) -> None:
    """The operator's stay, before, meanwhile and afterwards."""
    made = scene.app("keeping")
    port = {"name": "web", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}
    slices = [made.slice(family, scene.cluster.pods[:2]) for family in FAMILIES]
    scene.put("keeping.json", service(made.name, made.addresses, [port], type="NodePort"), *slices)
    try:
        wait_for(lambda: reserved(node) >= OTHERS | {NODE_PORT}, 10, "the NodePort's reservation")
    finally:
        scene.drop("keeping.json")
    wait_for(lambda: reserved(node) == OTHERS, 10, "the NodePort to be given back")
