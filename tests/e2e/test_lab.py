# SPDX-License-Identifier: Apache-2.0
"""The lab itself: direct traffic works, and nothing stays behind however a run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import leftovers
from tests.lab.cluster import Cluster
from tests.lab.evenness import evenness, tail_probability
from tests.lab.pairs import meet
from tests.lab.prober import tcp, udp

CHECKOUT = Path(__file__).parents[2]
BUSY_CLUSTER = textwrap.dedent(
    """
    import signal
    from tests.lab.cluster import Cluster
    # a shell that starts tests in the background has SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        cluster.respond()
        cluster.pods[0].prober
        print(cluster.name, flush=True)
        signal.pause()
    """
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with responders and no agent."""
    with Cluster() as cluster:
        cluster.respond()
        yield cluster


@pytest.mark.parametrize("family", [4, 6, 46])
def test_everyone_reaches_every_pod(cluster: Cluster, family: int) -> None:
    """Pods, nodes and the client reach each pod by TCP and UDP with no proxy loaded."""
    for host in cluster.hosts:
        for pod in cluster.pods:
            address = pod.address(family)
            mapped = family == 46
            for to in (
                tcp(address, 8080, mapped=mapped),
                udp(address, 9090, mapped=mapped),
                udp(address, 9090, mapped=mapped, connected=True),
            ):
                outcome = host.prober.once(to)
                assert (outcome.who, outcome.error) == (pod.name, ""), (host.name, to)


def test_processes_run_in_their_cgroup_and_namespace(cluster: Cluster) -> None:
    """A pod's command is in the pod's cgroup and sees the pod's addresses only."""
    pod = cluster.pods[4]
    membership = pod.run("cat", "/proc/self/cgroup", check=True).stdout
    assert f"{cluster.name}/node2/{pod.name}" in membership
    addresses = pod.run("ip", "-o", "address", check=True).stdout
    assert pod.ipv4 in addresses
    assert cluster.pods[0].ipv4 not in addresses


def test_clusters_do_not_collide(cluster: Cluster) -> None:
    """A second cluster with the same addresses has its own traffic."""
    with Cluster(nodes=1, pods_per_node=1) as other:
        name = other.name
        outcome = other.nodes[0].prober.once(tcp(cluster.pods[0].ipv4, 8080))
        assert outcome.error == "ECONNREFUSED"
        assert cluster.nodes[0].prober.once(tcp(cluster.pods[0].ipv4, 8080)).error == ""
    assert leftovers.traces(name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM unwind the cluster before the process ends."""
    process, name = _busy_process()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert leftovers.traces(name) == []


def test_what_a_kill_leaves_is_swept_by_the_next_cluster() -> None:
    """SIGKILL can't be handled: the next run removes what is left."""
    process, name = _busy_process()
    process.kill()
    process.communicate(timeout=20)
    assert leftovers.traces(name) != []
    leftovers.sweep()
    assert leftovers.traces(name) == []


def _busy_process() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_CLUSTER],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    name = process.stdout.readline().strip()
    assert name
    return process, name


@pytest.mark.parametrize(
    ("freedom", "critical"), [(1, 10.828), (2, 13.816), (3, 16.266), (5, 20.515), (10, 29.588)]
)
def test_tail_probability_agrees_with_the_tables(freedom: int, critical: float) -> None:
    """The published critical values of p = 0.001."""
    assert tail_probability(critical, freedom) == pytest.approx(0.001, rel=1e-3)


def test_evenness_tells_even_from_uneven() -> None:
    """Counts as even as chance makes them pass; a backend with a third less does not."""
    assert evenness([340, 325, 335]) > 0.5
    assert evenness([400, 400, 266]) < 0.0001


def test_who_comes_late_to_a_meeting_goes_on() -> None:
    """Waiting for the other to be exactly as far would be for ever once it has gone on."""
    shared = memoryview(bytearray(8)).cast("I")
    shared[1] = 2
    meet(shared, 0, 1)
    assert shared[0] == 1
