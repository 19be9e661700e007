# SPDX-License-Identifier: Apache-2.0
"""The service that is dialled, and who dials it."""

from __future__ import annotations

from collections.abc import Sequence
from subprocess import PIPE

from tests.bench import objects
from tests.bench.load import Endpoint, Process, Spawn
from tests.lab.hosts import Host, Node

NAME = "bench"
CLUSTER_IPS = objects.Addresses("10.96.0.80", "fd00:10:96::80")
TARGET_PORT = 7000
NODE_PORT = 30080


def dialled_objects(answering: Host, node_port: int = 0) -> list[objects.Object]:
    """Return the service with its slices: one endpoint a family, TCP and UDP."""
    ports, node = {"TCP": TARGET_PORT, "UDP": TARGET_PORT}, answering.node_name
    return [
        objects.service(NAME, CLUSTER_IPS, list(ports), node_port),
        objects.slice_of(NAME, "IPv4", [answering.ipv4], ports, node),
        objects.slice_of(NAME, "IPv6", [answering.ipv6], ports, node),
    ]


def service_endpoint(family: int) -> Endpoint:
    """Return the service's ClusterIP of family 4 or 6 and its port."""
    return Endpoint(CLUSTER_IPS[family == 6], objects.PORT)


def node_endpoint(node: Node, family: int) -> Endpoint:
    """Return where a node serves its NodePort."""
    return Endpoint(node.address(family), NODE_PORT)


def pod_endpoint(answering: Host, family: int) -> Endpoint:
    """Return where the service's endpoint listens."""
    return Endpoint(answering.address(family), TARGET_PORT)


def spawner(host: Host) -> Spawn:
    """Return what starts a load tool on a host of the lab."""

    def spawn(argv: Sequence[str]) -> Process:
        return host.popen(*argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)

    return spawn
