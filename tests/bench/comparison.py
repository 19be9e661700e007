# SPDX-License-Identifier: Apache-2.0
"""Rates in several states of a node, taken in turns.

All cases run in each state, one after another, as changing it takes longer than a window.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from tests.bench.bench import Bench
from tests.bench.cputime import CpuTime
from tests.bench.dialled import NAME, pod_endpoint, service_endpoint, spawner
from tests.bench.figures import Figure, Target, median_figure
from tests.bench.load import Client, Endpoint, Window, client, serving
from tests.bench.rounds import interleave
from tests.lab.hosts import Host

# For the code that attaching patched and the caches that the window before has used.
WARM_UP_MS = 3

FEW, MANY = 10, 5000


class Case(NamedTuple):
    """What is done in a window. Modes are those of load/client.c; `sizes` count services.

    `direct` dials the pod in all windows: what is taken from traffic that is no service's.
    Windows are `stretch` times as long as others.
    """

    measure: str
    name: str
    mode: str
    family: int
    target: Target | None = None
    direct: bool = False
    sizes: tuple[int, ...] = (FEW, MANY)
    stretch: int = 1

    @property
    def protocol(self) -> str:
        """The server's protocol: tcp or udp."""
        return self.mode.split("-", maxsplit=1)[0]


class Ends(NamedTuple):
    """Between whom windows run: who dials and who answers."""

    dialling: Host
    answering: Host


class Variant(NamedTuple):
    """A state of the node: `enter` brings it about, `proxied` windows dial the service in it.

    `served` says by family where that is: the ClusterIP, unless it is told otherwise.
    """

    name: str
    enter: Callable[[], object]
    ends: Ends
    proxied: bool
    served: Callable[[int], Endpoint] = service_endpoint


# The windows of one round, by the name of their variant.
Round: TypeAlias = Mapping[str, Window]


class Comparison(NamedTuple):
    """What came of a case."""

    case: Case
    rounds: Sequence[Round]

    def ratios(self, over: str, under: str) -> list[float]:
        """Return the rate of one variant by that of another, round by round."""
        return [each[over].rate / each[under].rate for each in self.rounds]


def compare(
    bench: Bench, cases: Sequence[Case], variants: Sequence[Variant], rounds: int
) -> Iterator[Comparison]:
    """Yield what came of each case, after all rounds."""
    if not cases:
        return
    names = ", ".join(f"{case.measure}/{case.name}" for case in cases)
    against = ", ".join(variant.name for variant in variants)
    bench.progress(f"datapath: {rounds} rounds ({against}) of {names}")
    with _callers(bench, cases, variants) as callers:
        runs = [_run(bench, variant, cases, callers[variant.name]) for variant in variants]
        taken = interleave(runs, rounds)
    for number, case in enumerate(cases):
        named = [
            {variant.name: windows[number] for variant, windows in zip(variants, each, strict=True)}
            for each in taken
        ]
        yield Comparison(case, named)


def _run(
    bench: Bench, variant: Variant, cases: Sequence[Case], callers: Sequence[Client]
) -> Callable[[], Sequence[Window]]:
    """Return what takes one window of each case in a variant's state."""
    spent = CpuTime([host.cgroup for host in variant.ends])

    def run() -> list[Window]:
        variant.enter()
        lengths = (bench.extent.window_ms * case.stretch for case in cases)
        return [
            _window(caller, length, spent) for caller, length in zip(callers, lengths, strict=True)
        ]

    return run


def _window(caller: Client, length_ms: int, spent: CpuTime) -> Window:
    caller.window(WARM_UP_MS)
    before = spent.ns()
    window = caller.window(length_ms)
    return replace(window, cpu_ns=spent.ns() - before)


@contextmanager
def _callers(
    bench: Bench, cases: Sequence[Case], variants: Sequence[Variant]
) -> Iterator[dict[str, list[Client]]]:
    """Have the clients of each variant, case by case, and their servers while the block runs."""
    with ExitStack() as undo:
        answering = {variant.ends.answering.name: variant.ends.answering for variant in variants}
        for host in answering.values():
            _serve(bench, undo, host, cases)

        def start(case: Case, variant: Variant) -> Client:
            dialling, to = variant.ends.dialling, _to(case, variant)
            return undo.enter_context(
                client(spawner(dialling), bench.tools, case.mode, to, bench.client_cpu)
            )

        yield {variant.name: [start(case, variant) for case in cases] for variant in variants}


def _serve(bench: Bench, undo: ExitStack, host: Host, cases: Sequence[Case]) -> None:
    for protocol, family in sorted({(case.protocol, case.family) for case in cases}):
        at = pod_endpoint(host, family)
        undo.enter_context(
            serving(spawner(host), bench.tools, protocol, at, name=NAME, cpu=bench.server_cpu)
        )


def _to(case: Case, variant: Variant) -> Endpoint:
    if variant.proxied and not case.direct:
        return variant.served(case.family)
    return pod_endpoint(variant.ends.answering, case.family)


class Ratio(NamedTuple):
    """A figure to be made of a comparison: the rate of the variant `over` by that of `under`."""

    name: str
    over: str
    under: str
    target: Target | None


def ratio_figure(
    bench: Bench, comparison: Comparison, ratio: Ratio, details: Mapping[str, object]
) -> Figure:
    """Return the median ratio of two variants' rates as `datapath/<name>`."""
    case, rounds = comparison.case, comparison.rounds
    both = (ratio.over, ratio.under)
    taken = {
        "mode": case.mode,
        "family": case.family,
        "window_ms": bench.extent.window_ms * case.stretch,
        "client_cpu": bench.client_cpu,
        "server_cpu": bench.server_cpu,
        **{variant: windows_record([each[variant] for each in rounds]) for variant in both},
    }
    ratios = comparison.ratios(*both)
    return median_figure(
        f"datapath/{ratio.name}", "ratio", ratios, ratio.target, {**details, **taken}
    )


def windows_record(windows: Sequence[Window]) -> dict[str, object]:
    """Return a variant's windows as the JSON has them: the n-th of each list is of one window."""
    return {
        "median_per_second": round(statistics.median(window.rate for window in windows)),
        "per_second": [round(window.rate) for window in windows],
        "operations": [window.operations for window in windows],
        "cpu_ns": [window.cpu_ns for window in windows],
        "latency_ns": {
            quantile: [window.latency_ns[quantile] for window in windows]
            for quantile in ("p50", "p90", "p99", "p999", "max")
        },
    }
