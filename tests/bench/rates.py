# SPDX-License-Identifier: Apache-2.0
"""The sockets path: a rate through a ClusterIP by the same rate with no proxy loaded.

Client and server are two pods of one node. In the state "ours" they dial the ClusterIP with the
agent's programs attached, in "none" the pod with nothing attached (see attachment.py).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from tests.bench import objects
from tests.bench.attachment import Switch, switch_of
from tests.bench.bench import Bench
from tests.bench.comparison import FEW, Case, Ends, Ratio, Variant, compare, ratio_figure
from tests.bench.dialled import NAME, dialled_objects
from tests.bench.figures import Figure, at_least
from tests.lab.cluster import Cluster

AS_GOOD = at_least(0.97)
UNTOUCHED = at_least(0.98)

CASES = (
    Case("connection-rate", "tcp4", "tcp-connect", 4, AS_GOOD),
    Case("connection-rate", "tcp6", "tcp-connect", 6, AS_GOOD),
    Case("udp-rate", "udp4", "udp-connect", 4),
    Case("udp-rate", "udp6", "udp-connect", 6),
    Case("request-rate", "tcp4", "tcp-request", 4, sizes=(FEW,)),
    Case("pass-through", "tcp4", "tcp-connect", 4, UNTOUCHED, direct=True, sizes=(FEW,)),
    Case("pass-through", "udp4", "udp-connect", 4, UNTOUCHED, direct=True, sizes=(FEW,)),
    Case("pass-through", "tcp4-kept", "tcp-request", 4, UNTOUCHED, direct=True, sizes=(FEW,)),
    Case("pass-through", "tcp6-kept", "tcp-request", 6, UNTOUCHED, direct=True, sizes=(FEW,)),
)
# What the method itself makes of two equal things, which is to be 1.
CONTROL = Case("control", "tcp4", "tcp-connect", 4, direct=True, sizes=(FEW,))
MEASURES = tuple(dict.fromkeys(case.measure for case in (*CASES, CONTROL)))


def rate_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of the named measures, size by size."""
    chosen = [case for case in (*CASES, CONTROL) if case.measure in measures]
    for size in sorted({size for case in chosen for size in case.sizes}):
        yield from _figures_of_size(bench, size, [case for case in chosen if size in case.sizes])


def _figures_of_size(bench: Bench, size: int, cases: Sequence[Case]) -> Iterator[Figure]:
    bench.progress(f"datapath: an agent with {size} services")
    with Cluster(nodes=1, pods_per_node=2) as cluster:
        (node,) = cluster.nodes
        ends = Ends(*node.pods)
        manifests = cluster.directory / "manifests"
        objects.write_crowd(manifests, size - 1)
        objects.write(manifests / f"{NAME}.json", dialled_objects(ends.answering))
        agent = cluster.agent(node)
        agent.start()
        with switch_of(agent) as switch:
            compared = [case for case in cases if case is not CONTROL]
            yield from _figures(bench, size, compared, _states(switch, ends), switch.names)
            controls = [case for case in cases if case is CONTROL]
            yield from _figures(bench, size, controls, _equals(ends), [])


def _states(switch: Switch, ends: Ends) -> list[Variant]:
    return [
        Variant("ours", lambda: switch.turn(True), ends, proxied=True),
        Variant("none", lambda: switch.turn(False), ends, proxied=False),
    ]


def _equals(ends: Ends) -> list[Variant]:
    return [Variant(name, _turn_nothing, ends, proxied=False) for name in ("one", "other")]


def _turn_nothing() -> None:
    """Let the time pass that turning the programs on or off takes."""
    time.sleep(0.1)


def _figures(
    bench: Bench,
    size: int,
    cases: Sequence[Case],
    variants: Sequence[Variant],
    attached: Sequence[str],
) -> Iterator[Figure]:
    over, under = (variant.name for variant in variants)
    details = {"services": size, "attached": attached}
    for comparison in compare(bench, cases, variants, bench.extent.pairs):
        case = comparison.case
        ratio = Ratio(f"{case.measure}/{case.name}/{size}", over, under, case.target)
        yield ratio_figure(bench, comparison, ratio, details)
