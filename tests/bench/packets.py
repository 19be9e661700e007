# SPDX-License-Identifier: Apache-2.0
"""The packet path: a rate through a ClusterIP by the same rate without a proxy, and by nftables'.

The client runs in a pod's network namespace but outside of the agent's cgroup, as a virtual
machine does: no hook translates its sockets, so the tc programs on the node's devices translate
its packets. Three states take turns on one node: "none", where it dials the pod, "ours" and
"nftables" (see ruleset.py), where it dials the ClusterIP.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain

from tests.bench import objects
from tests.bench.agents import CONFIG, packet_switch_of
from tests.bench.attachment import Switch
from tests.bench.bench import Bench
from tests.bench.comparison import (
    FEW,
    Case,
    Comparison,
    Ends,
    Ratio,
    Variant,
    compare,
    ratio_figure,
)
from tests.bench.dialled import NAME, dialled_objects
from tests.bench.figures import Figure, at_least
from tests.bench.netfilter import Rules
from tests.bench.nftables import nftables_on
from tests.lab import foreign
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Pod

CONNECTS = at_least(0.92)
KEEPS = at_least(0.97)
BEATS_NFTABLES = at_least(1.0)

CASES = (
    Case("connection-rate-packet", "tcp4", "tcp-connect", 4, CONNECTS),
    Case("connection-rate-packet", "tcp6", "tcp-connect", 6, CONNECTS),
    Case("connection-rate-packet", "udp4", "udp-connect", 4),
    Case("connection-rate-packet", "udp6", "udp-connect", 6),
    Case("request-rate-packet", "tcp4", "tcp-request", 4, KEEPS),
    Case("request-rate-packet", "tcp6", "tcp-request", 6, KEEPS),
    Case("request-rate-packet", "udp4", "udp-request", 4, KEEPS, sizes=(FEW,)),
    Case("request-rate-packet", "udp6", "udp-request", 6, KEEPS, sizes=(FEW,)),
)
# Without a proxy after nftables, by the same on a node that has never had either: what is left
# of a rule set that was taken off. To be 1.
CONTROLS = (
    Case("control-packet", "tcp4", "tcp-connect", 4, sizes=(FEW,)),
    Case("control-packet", "udp4", "udp-connect", 4, sizes=(FEW,)),
)
# A program of two instructions on the same devices by none: what the kernel takes for the hooks
# alone, which no program can be faster than.
HOOKS = (
    Case("hooks-packet", "tcp4", "tcp-connect", 4, direct=True, sizes=(FEW,)),
    Case("hooks-packet", "tcp4-kept", "tcp-request", 4, direct=True, sizes=(FEW,)),
)
MEASURES = tuple(dict.fromkeys(case.measure for case in (*CASES, *HOOKS, *CONTROLS)))


def packet_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of the named measures: the control, which needs no agent, then by size."""
    yield from _control_figures(bench, [case for case in CONTROLS if case.measure in measures])
    chosen = [case for case in (*CASES, *HOOKS) if case.measure in measures]
    for size in sorted({size for case in chosen for size in case.sizes}):
        yield from _figures_of_size(bench, size, [case for case in chosen if size in case.sizes])


def _figures_of_size(bench: Bench, size: int, cases: Sequence[Case]) -> Iterator[Figure]:
    bench.progress(f"datapath: an agent with {size} services, packets")
    with Cluster(nodes=1, pods_per_node=2) as cluster, ExitStack() as undo:
        (node,) = cluster.nodes
        dialling, answering = node.pods
        crowd = [objects.crowd_member(number) for number in range(size - 1)]
        dialled = dialled_objects(answering)
        manifests = cluster.directory / "manifests"
        objects.write_crowd(manifests, size - 1)
        objects.write(manifests / f"{NAME}.json", dialled)
        config = cluster.directory / "config.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        agent = cluster.agent(node, f"--config={config}")
        agent.start()
        switch = undo.enter_context(packet_switch_of(agent))
        ends = Ends(untranslated(cluster, dialling), answering)
        yield from _hooks_figures(bench, switch, ends, [case for case in cases if case in HOOKS])
        proxied = [case for case in cases if case not in HOOKS]
        if not proxied:
            return
        bench.progress(f"datapath: nftables with {size} services")
        rules = undo.enter_context(nftables_on(node, list(chain(*crowd)), dialled))
        states = _states(switch, rules, ends)
        for comparison in compare(bench, proxied, states, bench.extent.triples):
            yield from _figures(bench, size, comparison, switch.names)


def _hooks_figures(
    bench: Bench, switch: Switch, ends: Ends, cases: Sequence[Case]
) -> Iterator[Figure]:
    if not cases:
        return
    with ExitStack() as undo:
        program = foreign.passing_on()
        undo.callback(os.close, program)
        empty = switch.of_empty(program)
        undo.callback(empty.turn, False)
        variants = [
            Variant("empty", lambda: empty.turn(True), ends, proxied=False),
            Variant("none", lambda: empty.turn(False), ends, proxied=False),
        ]
        for comparison in compare(bench, cases, variants, bench.extent.pairs):
            case = comparison.case
            ratio = Ratio(f"{case.measure}/{case.name}/{FEW}", "empty", "none", None)
            yield ratio_figure(bench, comparison, ratio, {"attached": empty.names})


def untranslated(cluster: Cluster, pod: Pod) -> Host:
    """Return a host in a pod's network namespace whose processes are in no node's cgroup."""
    cgroup = cluster.cgroup / f"{pod.name}-machine"
    cgroup.mkdir()
    return Host(f"{pod.name}-machine", pod.netns, cgroup, pod.ipv4, pod.ipv6)


def _states(switch: Switch, rules: Rules, ends: Ends) -> list[Variant]:
    def neither() -> None:
        switch.turn(False)
        rules.turn(False)

    def ours() -> None:
        rules.turn(False)
        switch.turn(True)

    def nftables() -> None:
        switch.turn(False)
        rules.turn(True)

    return [
        Variant("none", neither, ends, proxied=False),
        Variant("ours", ours, ends, proxied=True),
        Variant("nftables", nftables, ends, proxied=True),
    ]


def _figures(
    bench: Bench, size: int, comparison: Comparison, attached: Sequence[str]
) -> Iterator[Figure]:
    case, details = comparison.case, {"services": size, "attached": attached}
    for under, target in (("none", case.target), ("nftables", BEATS_NFTABLES)):
        name = f"{case.measure}/{case.name}/{size}/by-{under}"
        yield ratio_figure(bench, comparison, Ratio(name, "ours", under, target), details)


def _control_figures(bench: Bench, cases: Sequence[Case]) -> Iterator[Figure]:
    if not cases:
        return
    with Cluster(nodes=2, pods_per_node=2) as cluster:
        node, elsewhere = cluster.nodes
        ends, others = (
            Ends(untranslated(cluster, each.pods[0]), each.pods[1]) for each in (node, elsewhere)
        )
        crowd = list(chain(*map(objects.crowd_member, range(FEW - 1))))
        with nftables_on(node, crowd, dialled_objects(ends.answering)) as rules:
            variants = [
                Variant("nftables", lambda: rules.turn(True), ends, proxied=True),
                Variant("none", lambda: rules.turn(False), ends, proxied=False),
                Variant("elsewhere", lambda: rules.turn(False), others, proxied=False),
            ]
            for comparison in compare(bench, cases, variants, bench.extent.triples):
                case = comparison.case
                name = f"{case.measure}/{case.name}/{FEW}"
                ratio = Ratio(name, "none", "elsewhere", None)
                yield ratio_figure(bench, comparison, ratio, {"services": FEW})
