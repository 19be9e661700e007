# SPDX-License-Identifier: Apache-2.0
"""Agents of the packet path's measures: what they are configured with, and what they serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyproxy.errors import PyproxyError
from tests.bench import objects
from tests.bench.attachment import Switch, switch_of
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.firewalls import LIBERAL, set_sysctl
from tests.lab.hosts import Node

# Thousands of sockets a second that send once and end without a word would fill the table: two
# minutes is for how long it holds on to each. What nftables has tracked is forgotten whenever it
# is taken off.
CONFIG = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {udpTimeout: 5s, udpStreamTimeout: 5s}
"""


def started_agent(
    cluster: Cluster, node: Node, served: Sequence[objects.Object], *, fast: bool = False
) -> Agent:
    """Start an agent on these objects; it shares nothing with others that this node has had.

    They are in one file: how long it takes to read many is none of these measures'. `fast`: with
    the fast path, of TCP as well.
    """
    name = f"{node.name}-{len(cluster.agents)}"
    manifests = cluster.directory / f"manifests-{name}"
    manifests.mkdir()
    objects.write(manifests / "all.json", served)
    config = cluster.directory / f"config-{name}.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    agent = cluster.agent(node, f"--config={config}")
    agent.source = f"--manifests={manifests}"
    agent.bpffs = cluster.bpffs / name
    agent.run_dir = cluster.directory / f"run-{name}"
    if fast:
        agent.use_fast_path()
        set_sysctl(node, LIBERAL, "1")
    agent.start()
    return agent


@contextmanager
def packet_switch_of(agent: Agent) -> Iterator[Switch]:
    """Take over what an agent attached, as switch_of() does.

    Raises PyproxyError if no device is in it.
    """
    with switch_of(agent) as switch:
        if not switch.devices:
            raise PyproxyError("the agent attached nothing to devices, so it translates no packets")
        yield switch
