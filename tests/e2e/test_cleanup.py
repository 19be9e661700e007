# SPDX-License-Identifier: Apache-2.0
"""`pyproxy cleanup` takes away what is ours and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.bytecode import Bytecode
from pyproxy.kernel.kept import Kept
from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import App, Scene
from tests.lab import bpf_ids, bpf_objects, foreign
from tests.lab.agent import Agent
from tests.lab.bpf_objects import Objects
from tests.lab.cluster import Cluster
from tests.lab.waiting import wait_for

NOTHING = Objects(frozenset(), frozenset(), frozenset())


# what is removed is the same whoever is translated
pytestmark = pytest.mark.once


KEPT = Bytecode({}, {}, b"")


@pytest.fixture
def alone(make_cluster: MakeCluster) -> Iterator[Cluster]:
    """One node with foreign programs on its cgroup and on its uplink; no agent yet."""
    with make_cluster(nodes=1, pods_per_node=2) as cluster:
        cluster.respond()
        node = cluster.nodes[0]
        (cluster.bpffs / "foreign").mkdir()
        foreign.attach_to_cgroup(node)
        foreign.attach_to_device(node, "eth0", cluster.bpffs / "foreign" / "filter")
        yield cluster


def _run_app(cluster: Cluster) -> tuple[Scene, App]:
    scene = Scene(cluster, cluster.start_agents())
    app = scene.app("web")
    scene.run(app, cluster.pods)
    return scene, app


def _await_gone(objects: Objects) -> None:
    """Wait until the kernel has freed them: it does so after a grace period."""
    wait_for(lambda: bpf_ids.alive(objects) == NOTHING, 10, f"{objects} to be freed", 0.05)


def test_cleanup_leaves_the_node_as_it_was(alone: Cluster) -> None:
    """Programs, maps, links, filters and pins are as before; foreign ones never left."""
    node = alone.nodes[0]
    before = bpf_objects.on_node(node, alone.bpffs)
    scene, app = _run_app(alone)
    agent = scene.agents[0]
    ours = bpf_objects.owned(agent)
    assert ours.programs
    assert bpf_objects.on_node(node, alone.bpffs) != before
    agent.stop()
    reply = agent.cli("cleanup")
    assert (reply.status, reply.stderr) == (0, "")
    _await_gone(ours)
    assert bpf_objects.on_node(node, alone.bpffs) == before
    for target in app.every_target():
        assert node.pods[0].prober.once(target).who == alone.client.name


def test_cleanup_of_nothing_is_done(alone: Cluster) -> None:
    """Where nothing is, cleanup exits 0 and leaves everything alone; so does a second one."""
    node = alone.nodes[0]
    before = bpf_objects.on_node(node, alone.bpffs)
    agent = alone.agent(node)
    assert [agent.cli("cleanup").status for _ in range(2)] == [0, 0]
    assert bpf_objects.on_node(node, alone.bpffs) == before


def test_cleanup_forgets_compiled_programs(alone: Cluster, tmp_path: Path) -> None:
    """They are no use to anybody else."""
    cache = tmp_path / "cache"
    Kept(cache).write("0123456789abcdef", KEPT)
    assert alone.agent(alone.nodes[0]).cli("cleanup", f"--cache-dir={cache}").status == 0
    assert not cache.exists()


def test_cleanup_refuses_while_an_agent_runs(alone: Cluster) -> None:
    """It names the agent and --force, and touches nothing."""
    scene, app = _run_app(alone)
    agent = scene.agents[0]
    attached = bpf_objects.on_node(alone.nodes[0], alone.bpffs)
    reply = agent.cli("cleanup")
    assert reply.status == 1
    assert str(agent.pid) in reply.stderr
    assert "--force" in reply.stderr
    assert "Traceback" not in reply.stderr
    assert bpf_objects.on_node(alone.nodes[0], alone.bpffs) == attached
    scene.await_backends(app, alone.pods)


def test_cleanup_by_force(alone: Cluster) -> None:
    """With --force it is done although an agent runs; nothing of ours stays once that ends."""
    node = alone.nodes[0]
    before = bpf_objects.on_node(node, alone.bpffs)
    scene, _ = _run_app(alone)
    agent = scene.agents[0]
    ours = bpf_objects.owned(agent)
    assert agent.healthz() == 200
    assert agent.cli("cleanup", "--force").status == 0
    # an agent whose programs are gone serves nobody
    wait_for(lambda: agent.healthz() == 503, 5, "/healthz to answer 503")
    _stop(agent)
    _await_gone(ours)
    assert bpf_objects.on_node(node, alone.bpffs) == before


def _stop(agent: Agent) -> None:
    if agent.running:
        agent.stop()
