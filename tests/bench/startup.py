# SPDX-License-Identifier: Apache-2.0
"""How long an agent takes to start and how much memory it then has, with 1,000 services."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import PyproxyError
from tests.bench import objects
from tests.bench.bench import Bench
from tests.bench.dialled import spawner
from tests.bench.figures import Figure, at_most, median_figure, worst_figure
from tests.bench.load import Tool, running
from tests.lab.agent import HEALTHZ, Agent
from tests.lab.cluster import Cluster
from tests.lab.waiting import wait_for

SERVICES = 1000
TIMEOUT_S = 60


class Start(NamedTuple):
    """One start: seconds to /healthz 200, and memory then, now and at its peak, in MB."""

    seconds: float
    rss_mb: float
    peak_mb: float


def startup_figures(bench: Bench) -> Iterator[Figure]:
    """Yield the time to synced and the memory: compiling, with programs kept, with them pinned."""
    bench.progress(f"start-up: {bench.extent.starts} times with {SERVICES} services")
    compiling, kept, pinned = [], [], []
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        objects.write_crowd(cluster.directory / "manifests", SERVICES)
        agent = cluster.agent(cluster.nodes[0])
        agent.cache_dir = cluster.directory / "cache"
        for _ in range(bench.extent.starts):
            _forget(agent)
            shutil.rmtree(agent.cache_dir, ignore_errors=True)
            compiling.append(_start(bench, agent))
            _forget(agent)
            kept.append(_start(bench, agent))
            pinned.append(_start(bench, agent))
    yield from _figures("compiling", compiling, 5.0)
    yield from _figures("kept", kept, 2.0)
    yield from _figures("pinned", pinned, 1.0)


def _figures(case: str, starts: list[Start], bound_s: float) -> Iterator[Figure]:
    name = f"control-plane/start-up/{case}"
    details = {"services": SERVICES, "peak_rss_mb": [start.peak_mb for start in starts]}
    seconds = [start.seconds for start in starts]
    yield median_figure(name, "s", seconds, at_most(bound_s), details)
    yield worst_figure(f"{name}-rss", "MB", [start.rss_mb for start in starts], at_most(80.0))


def _forget(agent: Agent) -> None:
    """Remove all that an earlier agent left, what it may have kept in its run directory too."""
    reply = agent.cli("cleanup")
    if reply.status != 0:
        raise PyproxyError(f"pyproxy cleanup failed: {reply.stderr.strip()}")
    shutil.rmtree(agent.run_dir, ignore_errors=True)


def _start(bench: Bench, agent: Agent) -> Start:
    """Start the agent, take time and memory, and stop it."""
    started_ns = time.monotonic_ns()
    agent.launch()
    address, port = HEALTHZ
    argv = [bench.tools["await_http"], address, port, "/healthz", TIMEOUT_S * 1000]
    with running(spawner(agent.node), argv) as waiting:
        synced_ns = _synced_at(waiting, agent)
    memory = memory_mb(Path(f"/proc/{agent.pid}/status").read_text(encoding="utf-8"))
    agent.stop()
    return Start((synced_ns - started_ns) / 1e9, memory["VmRSS"], memory["VmHWM"])


def _synced_at(waiting: Tool, agent: Agent) -> int:
    # Looked at now and then only: the tool takes the time, and this is not to take any.
    def known() -> bool:
        return waiting.has_output() or not agent.running

    wait_for(known, TIMEOUT_S + 1, "the agent to be synced or to end", interval_s=0.05)
    if not agent.running:
        raise PyproxyError(f"the agent has ended{agent.tail()}")
    try:
        return int(waiting.read_line(1))
    except PyproxyError as error:
        raise PyproxyError(f"{error}{agent.tail()}") from error


def memory_mb(status: str) -> dict[str, float]:
    """Return the Vm lines of /proc/PID/status in MB (10**6 bytes; the kernel's kB are KiB)."""
    lines = (line.split() for line in status.splitlines() if line.startswith("Vm"))
    return {key.rstrip(":"): int(kib) * 1024 / 1e6 for key, kib, *_unit in lines}


def status_figures(bench: Bench) -> Iterator[Figure]:
    """Yield the wall time of `pyproxy status` on a node with 1,000 services."""
    bench.progress(f"status: {bench.extent.runs} times with {SERVICES} services")
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        objects.write_crowd(cluster.directory / "manifests", SERVICES)
        agent = cluster.agent(cluster.nodes[0])
        agent.start()
        seconds = [_status_s(agent) for _ in range(bench.extent.runs)]
        agent.stop()
    details = {"services": SERVICES, "includes": "sh and nsenter, which enter the node"}
    yield median_figure("control-plane/status-time", "s", seconds, at_most(0.3), details)


def _status_s(agent: Agent) -> float:
    started = time.perf_counter()
    reply = agent.cli("status")
    seconds = time.perf_counter() - started
    if reply.status != 0:
        raise PyproxyError(f"pyproxy status ended with {reply.status}: {reply.stderr.strip()}")
    return seconds
