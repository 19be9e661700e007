# SPDX-License-Identifier: Apache-2.0
"""An API server for the agents of a cluster, as a process of its own on the outside host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.apiserver.api import ApiServer
from tests.bench.objects import Object
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.hosts import Node
from tests.lab.waiting import wait_for

ROOT = Path(__file__).parents[2]
PORT = 6443
START_TIMEOUT_S = 20.0
# The control socket takes a line of JSON for each; a line of all would be tens of megabytes.
AT_ONCE = 1000
RESOURCES = ("services", "endpointslices", "nodes")


@contextmanager
def api_server(cluster: Cluster) -> Iterator[ApiServer]:
    """Have an API server that knows the cluster's nodes, for the length of a block."""
    control = cluster.directory / "api.sock"
    listen = f"{cluster.client.address(4)}:{PORT}"
    arguments = ["--listen", listen, "--control", str(control), "--until-stdin-closes"]
    process = cluster.client.popen(
        sys.executable, "-m", "tests.apiserver", *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    try:
        wait_for(control.exists, START_TIMEOUT_S, "the API server's control socket")
        with ApiServer.at(control) as api:
            put_all(api, [_node(node) for node in cluster.nodes])
            yield api
    finally:
        # It ends by itself, so that it takes its certificates with it.
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


def put_all(api: ApiServer, objects: Sequence[Object]) -> None:
    """Create or replace many objects."""
    for first in range(0, len(objects), AT_ONCE):
        api.put(*objects[first : first + AT_ONCE])


def follower(cluster: Cluster, node: Node, api: ApiServer) -> Agent:
    """Return a node's agent that follows the API server, not yet started."""
    agent = cluster.agent(node)
    agent.source = f"--kubeconfig={api.kubeconfig(cluster.directory / 'kubeconfig')}"
    return agent


def await_watches(api: ApiServer, timeout_s: float) -> None:
    """Wait until each resource is watched: what is put from now on comes by a watch."""

    def watched() -> bool:
        return all(api.watches(resource) for resource in RESOURCES)

    wait_for(watched, timeout_s, "the agent to watch")


def _node(node: Node) -> Object:
    addresses = [{"type": "InternalIP", "address": node.address(4)}]
    meta = {"name": node.name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": meta,
        "status": {"addresses": addresses},
    }
