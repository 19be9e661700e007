# SPDX-License-Identifier: Apache-2.0
"""Programming latency: an EndpointSlice's file changes, until the new backend answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.bench import objects
from tests.bench.bench import Bench
from tests.bench.figures import Figure, at_most
from tests.bench.intervals import quantile_estimate
from tests.bench.load import Answer, Endpoint, Prober, probing, serving
from tests.bench.rates import CLUSTER_IPS, NAME, TARGET_PORT, spawner
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host

SERVICES = 1000
# A probe itself takes 0.03 ms, so a change is seen at most this and a little later.
PROBE_PAUSE_US = 50
ANSWER_TIMEOUT_S = 10.0
# Changes come neither back to back nor in step with anything that an agent does periodically.
PAUSES_MS = (31, 53, 47, 71, 37)


def programming_figures(bench: Bench) -> Iterator[Figure]:
    """Yield p50, p90 and p99 of the latency, in ms from before the rename to the answer."""
    bench.progress(f"programming latency: an agent with {SERVICES} services")
    with Cluster(nodes=1, pods_per_node=3) as cluster:
        dialling, *answering = cluster.nodes[0].pods
        manifests = cluster.directory / "manifests"
        slice_file = _write_objects(manifests, answering[0])
        agent = cluster.agent(cluster.nodes[0])
        agent.start()
        bench.progress(f"programming latency: {bench.extent.changes} changes")
        latencies, gaps = _latencies(bench, dialling, answering, slice_file)
        agent.stop()
    details = {
        "services": SERVICES,
        "changed": "one EndpointSlice, its file replaced by rename",
        "probe_resolution_ms": [round(gap, 4) for gap in gaps],
    }
    for quantile, bound in ((0.5, 10.0), (0.9, None), (0.99, 50.0)):
        yield Figure(
            name=f"control-plane/programming-latency/p{quantile * 100:.0f}",
            unit="ms",
            estimate=quantile_estimate(latencies, quantile),
            samples=latencies,
            target=at_most(bound) if bound else None,
            details=details,
        )


def _write_objects(manifests: Path, first: Host) -> Path:
    """Write the services and return the file of the slice that is going to change."""
    objects.write_crowd(manifests, SERVICES - 1)
    objects.write(manifests / "service.json", [objects.service(NAME, CLUSTER_IPS, ["TCP"])])
    slice_file = manifests / "slice.json"
    objects.write(slice_file, [_slice_at(first)])
    return slice_file


def _slice_at(backend: Host) -> dict[str, object]:
    return objects.slice_of(NAME, "IPv4", [backend.ipv4], {"TCP": TARGET_PORT}, "node1")


def _latencies(
    bench: Bench, dialling: Host, answering: Sequence[Host], slice_file: Path
) -> tuple[list[float], list[float]]:
    """Return the latency of each change and the resolution it was seen with, both in ms."""
    latencies, gaps = [], []
    with ExitStack() as undo:
        for host in answering:
            at = Endpoint(host.ipv4, TARGET_PORT)
            undo.enter_context(
                serving(spawner(host), bench.tools, "tcp", at, name=host.name, cpu=bench.server_cpu)
            )
        to = Endpoint(CLUSTER_IPS.ipv4, objects.PORT)
        prober = undo.enter_context(
            probing(spawner(dialling), bench.tools, to, PROBE_PAUSE_US, bench.client_cpu)
        )
        _expect(prober, answering[0].name)
        for number in range(1, bench.extent.changes + 1):
            backend = answering[number % len(answering)]
            time.sleep(PAUSES_MS[number % len(PAUSES_MS)] / 1000)
            changed_ns = _replace(slice_file, backend)
            answer = _expect(prober, backend.name)
            latencies.append((answer.at_ns - changed_ns) / 1e6)
            gaps.append(answer.gap_ns / 1e6)
    return latencies, gaps


def _replace(slice_file: Path, backend: Host) -> int:
    """Put the slice of one backend in place; return the clock in ns right before the rename."""
    staged = objects.stage(slice_file, [_slice_at(backend)])
    now_ns = time.monotonic_ns()
    staged.rename(slice_file)
    return now_ns


def _expect(prober: Prober, name: str) -> Answer:
    answer = prober.next_answer(ANSWER_TIMEOUT_S)
    if answer.name != name:
        said = "nobody" if answer.name == "-" else answer.name
        raise PyproxyError(f"{said} answered where {name} was to", "see the agent's log")
    return answer
