# SPDX-License-Identifier: Apache-2.0
"""Datapath measures: a rate through a ClusterIP by the same rate with no proxy loaded.

Client and server are two pods of one node. "Proxied" windows dial the ClusterIP with the
agent's programs attached, "bare" ones dial the pod with nothing attached (see attachment.py).
All cases run in each state of the programs, one after another, as changing it takes longer
than a window.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

from tests.bench import objects
from tests.bench.attachment import switch_of
from tests.bench.bench import Bench
from tests.bench.figures import Figure, Target, at_least, median_figure
from tests.bench.load import Client, Endpoint, Process, Spawn, Window, client, serving
from tests.bench.pairs import Pair, interleave
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Node

NAME = "bench"
CLUSTER_IPS = objects.Addresses("10.96.0.80", "fd00:10:96::80")
TARGET_PORT = 7000
# For the code that attaching patched and the caches that the window before has used.
WARM_UP_MS = 3

FEW, MANY = 10, 5000
AS_GOOD = at_least(0.97)


class Case(NamedTuple):
    """One comparison. Modes are those of load/client.c.

    `direct` dials the pod in both windows: what the programs take from traffic that is none of
    theirs. `control` does so with nothing attached in either: what the method itself makes of
    two equal things, which is to be 1.
    """

    measure: str
    name: str
    mode: str
    family: int
    target: Target | None = None
    direct: bool = False
    control: bool = False
    sizes: tuple[int, ...] = (FEW, MANY)

    @property
    def protocol(self) -> str:
        """The server's protocol: tcp or udp."""
        return self.mode.split("-", maxsplit=1)[0]


CASES = (
    Case("connection-rate", "tcp4", "tcp-connect", 4, AS_GOOD),
    Case("connection-rate", "tcp6", "tcp-connect", 6, AS_GOOD),
    Case("udp-rate", "udp4", "udp-connect", 4),
    Case("udp-rate", "udp6", "udp-connect", 6),
    Case("request-rate", "tcp4", "tcp-request", 4, sizes=(FEW,)),
    Case("pass-through", "tcp4", "tcp-connect", 4, direct=True, sizes=(FEW,)),
    Case("pass-through", "udp4", "udp-connect", 4, direct=True, sizes=(FEW,)),
    Case("control", "tcp4", "tcp-connect", 4, direct=True, control=True, sizes=(FEW,)),
)


class Callers(NamedTuple):
    """The clients of a case: each waits until its windows."""

    proxied: Client
    bare: Client


def rate_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of the named measures, size by size."""
    chosen = [case for case in CASES if case.measure in measures]
    for size in sorted({size for case in chosen for size in case.sizes}):
        yield from _figures_of_size(bench, size, [case for case in chosen if size in case.sizes])


def _figures_of_size(bench: Bench, size: int, cases: Sequence[Case]) -> Iterator[Figure]:
    bench.progress(f"datapath: an agent with {size} services")
    with Cluster(nodes=1, pods_per_node=2) as cluster:
        (node,) = cluster.nodes
        _write_objects(cluster.directory / "manifests", node.pods[1], size)
        agent = cluster.agent(node)
        agent.start()
        with switch_of(agent) as switch:
            compared = [case for case in cases if not case.control]
            for case, pairs in _compare(bench, node, compared, switch.turn):
                yield _figure(bench, case, size, pairs, switch.names)
            controls = [case for case in cases if case.control]
            for case, pairs in _compare(bench, node, controls, _turn_nothing):
                yield _figure(bench, case, size, pairs, [])


def _compare(
    bench: Bench, node: Node, cases: Sequence[Case], turn: Callable[[bool], object]
) -> Iterator[tuple[Case, list[Pair]]]:
    """Yield the pairs of each case; `turn` attaches what is compared and detaches it."""
    if not cases:
        return
    names = ", ".join(f"{case.measure}/{case.name}" for case in cases)
    bench.progress(f"datapath: {bench.extent.pairs} pairs of {names}")
    with _callers(bench, node, cases) as callers:
        pairs = _pairs(bench, turn, callers)
    yield from zip(cases, pairs, strict=True)


def _turn_nothing(_on: bool) -> None:
    """Let the time pass that turning the programs on or off takes."""
    time.sleep(0.1)


def _write_objects(manifests: Path, answering: Host, size: int) -> None:
    """Write `size` services, the one that is dialled among them."""
    objects.write_crowd(manifests, size - 1)
    ports = {"TCP": TARGET_PORT, "UDP": TARGET_PORT}
    dialled = [objects.service(NAME, CLUSTER_IPS, list(ports))]
    for family, address in (("IPv4", answering.ipv4), ("IPv6", answering.ipv6)):
        dialled.append(objects.slice_of(NAME, family, [address], ports, "node1"))
    objects.write(manifests / f"{NAME}.json", dialled)


@contextmanager
def _callers(bench: Bench, node: Node, cases: Sequence[Case]) -> Iterator[list[Callers]]:
    """Have the clients of all cases, and a server a protocol and family, while the block runs."""
    dialling, answering = node.pods
    with ExitStack() as undo:
        for protocol, family in sorted({(case.protocol, case.family) for case in cases}):
            at = Endpoint(answering.address(family), TARGET_PORT)
            undo.enter_context(
                serving(
                    spawner(answering), bench.tools, protocol, at, name=NAME, cpu=bench.server_cpu
                )
            )

        def start(case: Case, to: Endpoint) -> Client:
            caller = client(spawner(dialling), bench.tools, case.mode, to, bench.client_cpu)
            return undo.enter_context(caller)

        callers = []
        for case in cases:
            pod = Endpoint(answering.address(case.family), TARGET_PORT)
            service = Endpoint(CLUSTER_IPS[case.family == 6], objects.PORT)
            proxied = start(case, pod if case.direct else service)
            callers.append(Callers(proxied, start(case, pod)))
        yield callers


def spawner(host: Host) -> Spawn:
    """Return what starts a load tool on a host of the lab."""

    def spawn(argv: Sequence[str]) -> Process:
        return host.popen(*argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)

    return spawn


def _pairs(
    bench: Bench, turn: Callable[[bool], object], callers: Sequence[Callers]
) -> list[list[Pair]]:
    """Return the pairs of each case."""

    def proxied() -> list[Window]:
        turn(True)
        return [_window(bench, each.proxied) for each in callers]

    def bare() -> list[Window]:
        turn(False)
        return [_window(bench, each.bare) for each in callers]

    rounds = interleave(proxied, bare, bench.extent.pairs)
    by_round = [[Pair(*pair) for pair in zip(*each, strict=True)] for each in rounds]
    return [list(of_case) for of_case in zip(*by_round, strict=True)]


def _window(bench: Bench, caller: Client) -> Window:
    caller.window(WARM_UP_MS)
    return caller.window(bench.extent.window_ms)


def _figure(
    bench: Bench, case: Case, size: int, pairs: Sequence[Pair], attached: Sequence[str]
) -> Figure:
    details = {
        "services": size,
        "mode": case.mode,
        "family": case.family,
        "window_ms": bench.extent.window_ms,
        "client_cpu": bench.client_cpu,
        "server_cpu": bench.server_cpu,
        "attached": attached,
        "proxied": windows_record([pair.proxied for pair in pairs]),
        "bare": windows_record([pair.bare for pair in pairs]),
    }
    name = f"datapath/{case.measure}/{case.name}/{size}"
    return median_figure(name, "ratio", [pair.ratio for pair in pairs], case.target, details)


def windows_record(windows: Sequence[Window]) -> dict[str, object]:
    """Return a variant's windows as the JSON has them: the n-th of each list is of one window."""
    return {
        "median_per_second": round(statistics.median(window.rate for window in windows)),
        "per_second": [round(window.rate) for window in windows],
        "operations": [window.operations for window in windows],
        "latency_ns": {
            quantile: [window.latency_ns[quantile] for window in windows]
            for quantile in ("p50", "p90", "p99", "max")
        },
    }
