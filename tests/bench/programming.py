# SPDX-License-Identifier: Apache-2.0
"""Programming latency: an EndpointSlice changes, until the new backend answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.errors import PyproxyError
from tests.apiserver.api import ApiServer
from tests.bench import objects
from tests.bench.bench import Bench
from tests.bench.dialled import (
    CLUSTER_IPS,
    NAME,
    TARGET_PORT,
    pod_endpoint,
    service_endpoint,
    spawner,
)
from tests.bench.figures import Figure, at_most
from tests.bench.following import api_server, await_watches, follower, put_all
from tests.bench.intervals import quantile_estimate
from tests.bench.load import Answer, Prober, probing, serving
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host

SERVICES = 1000
# A probe itself takes 0.03 ms, so a change is seen at most this and a little later.
PROBE_PAUSE_US = 50
ANSWER_TIMEOUT_S = 10.0
# Changes come neither back to back nor in step with anything that an agent does periodically.
PAUSES_MS = (31, 53, 47, 71, 37)


class Samples(NamedTuple):
    """The latency of each change and the resolution it was seen with."""

    latencies_ms: list[float]
    gaps_ms: list[float]


# Puts the slice of one backend in place and returns the clock, in ns, right before.
Change: TypeAlias = Callable[[Host], int]


def programming_figures(bench: Bench) -> Iterator[Figure]:
    """Yield p50, p90 and p99 of the latency, in ms from before the rename to the answer."""
    bench.progress(f"programming latency: an agent with {SERVICES} services")
    with Cluster(nodes=1, pods_per_node=3) as cluster:
        manifests = cluster.directory / "manifests"
        slice_file = _write_objects(manifests, cluster.pods[1])
        agent = cluster.agent(cluster.nodes[0])
        agent.start()
        samples = _latencies(bench, cluster.pods, lambda backend: _replace(slice_file, backend))
        agent.stop()
    changed = "one EndpointSlice, its file replaced by rename"
    yield from _figures("programming-latency", samples, changed)


def api_programming_figures(bench: Bench) -> Iterator[Figure]:
    """Yield the same quantiles, in ms from before the change is posted to the answer.

    What the API server of the tests takes to store the change and to send its event is in it.
    """
    bench.progress(f"programming latency: an agent that follows {SERVICES} services of an API")
    with Cluster(nodes=1, pods_per_node=3) as cluster, api_server(cluster) as api:
        put_all(api, list(chain(*map(objects.crowd_member, range(SERVICES - 1)))))
        put_all(api, [_service(), _slice_at(cluster.pods[1])])
        agent = follower(cluster, cluster.nodes[0], api)
        agent.start()
        await_watches(api, ANSWER_TIMEOUT_S)
        samples = _latencies(bench, cluster.pods, lambda backend: _post(api, backend))
        agent.stop()
    changed = "one EndpointSlice, put into the API server"
    yield from _figures("programming-latency-api", samples, changed)


def _figures(measure: str, samples: Samples, changed: str) -> Iterator[Figure]:
    details = {
        "services": SERVICES,
        "changed": changed,
        "probe_resolution_ms": [round(gap, 4) for gap in samples.gaps_ms],
    }
    for quantile, bound in ((0.5, 10.0), (0.9, None), (0.99, 50.0)):
        yield Figure(
            name=f"control-plane/{measure}/p{quantile * 100:.0f}",
            unit="ms",
            estimate=quantile_estimate(samples.latencies_ms, quantile),
            samples=samples.latencies_ms,
            target=at_most(bound) if bound else None,
            details=details,
        )


def _write_objects(manifests: Path, first: Host) -> Path:
    """Write the services and return the file of the slice that is going to change."""
    objects.write_crowd(manifests, SERVICES - 1)
    objects.write(manifests / "service.json", [_service()])
    slice_file = manifests / "slice.json"
    objects.write(slice_file, [_slice_at(first)])
    return slice_file


def _service() -> objects.Object:
    return objects.service(NAME, CLUSTER_IPS, ["TCP"])


def _slice_at(backend: Host) -> objects.Object:
    return objects.slice_of(NAME, "IPv4", [backend.ipv4], {"TCP": TARGET_PORT}, "node1")


def _latencies(bench: Bench, pods: Sequence[Host], change: Change) -> Samples:
    """Let the first of the pods dial while the service moves between the others."""
    bench.progress(f"programming latency: {bench.extent.changes} changes")
    dialling, *answering = pods
    latencies, gaps = [], []
    with ExitStack() as undo:
        for host in answering:
            at = pod_endpoint(host, 4)
            undo.enter_context(
                serving(spawner(host), bench.tools, "tcp", at, name=host.name, cpu=bench.server_cpu)
            )
        to = service_endpoint(4)
        prober = undo.enter_context(
            probing(spawner(dialling), bench.tools, to, PROBE_PAUSE_US, bench.client_cpu)
        )
        _expect(prober, answering[0].name)
        for number in range(1, bench.extent.changes + 1):
            backend = answering[number % len(answering)]
            time.sleep(PAUSES_MS[number % len(PAUSES_MS)] / 1000)
            changed_ns = change(backend)
            answer = _expect(prober, backend.name)
            latencies.append((answer.at_ns - changed_ns) / 1e6)
            gaps.append(answer.gap_ns / 1e6)
    return Samples(latencies, gaps)


def _post(api: ApiServer, backend: Host) -> int:
    changed = _slice_at(backend)
    now_ns = time.monotonic_ns()
    api.put(changed)
    return now_ns


def _replace(slice_file: Path, backend: Host) -> int:
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
