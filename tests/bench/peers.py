# SPDX-License-Identifier: Apache-2.0
"""How long requests and first packets take, and how much CPU, by our two paths and our peers.

Five states take turns on one node, where a client dials a ClusterIP for a pod beside it: "none",
where it dials the pod; "sockets", a pod whose sockets our hooks translate; "packets", one in no
node's cgroup, as a virtual machine; and rules of kube-proxy's form for "nftables" and "iptables".

Bytes go one way ("throughput"), by streams and by datagrams with segmentation offload. Requests go
over one connection ("latency", and "cpu-request" of the same windows). A first packet
("first-packet") is that of a connection: socket, connect, request and the answer, with few and with
many services, where rule sets that are walked rule by rule show. iptables is left out above
WALKED: its rules are loaded at each turn, which takes longer than all windows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain

from tests.bench import objects
from tests.bench.agents import packet_switch_of, started_agent
from tests.bench.bench import Bench
from tests.bench.comparison import FEW, Case, Comparison, Ends, Round, Variant, compare
from tests.bench.dialled import dialled_objects
from tests.bench.figures import Figure, median_figure
from tests.bench.iptables import iptables_on
from tests.bench.load import Window
from tests.bench.nftables import nftables_on
from tests.bench.nodeports import turns_of
from tests.bench.packets import untranslated
from tests.lab.cluster import Cluster

LATENCY, CPU, FIRST, THROUGHPUT = "latency", "cpu-request", "first-packet", "throughput"
MEASURES = (LATENCY, CPU, FIRST, THROUGHPUT)
WALKED = 1_000
QUANTILES = ("p50", "p99", "p999")
# A window of requests is longer: of thousands of them a few are beyond p99.9.
STRETCH = 4

REQUESTS = tuple(
    Case(LATENCY, name, mode, family, sizes=(FEW,), stretch=STRETCH)
    for name, mode, family in (
        ("tcp4", "tcp-request", 4),
        ("tcp6", "tcp-request", 6),
        ("udp4", "udp-request", 4),
    )
)
FIRSTS = tuple(
    Case(FIRST, name, mode, family)
    for name, mode, family in (("tcp4", "tcp-connect", 4), ("udp4", "udp-connect", 4))
)
# To the server and from it; a datagram's bulk is one send that the kernel makes datagrams of (GSO).
BULKS = tuple(
    Case(THROUGHPUT, f"{protocol}4-{name}", f"{protocol}-{word}", 4, sizes=(FEW,), stretch=STRETCH)
    for protocol in ("tcp", "udp")
    for name, word in (("up", "take"), ("down", "give"))
)
# As load/bulk.h has them.
BULK_BYTES = {"tcp": 256 * 1024, "udp": 32 * 1400}
# What is divided by what, in the same round.
RATIOS = (
    ("sockets", "none"),
    ("packets", "none"),
    ("packets", "nftables"),
    ("packets", "iptables"),
)
OURS = ("sockets", "packets")

# A number of a window, in the figure's unit.
Reading = Callable[[Window], float]


def peer_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of the named measures."""
    if LATENCY in measures or CPU in measures:
        for comparison in _compared(bench, FEW, REQUESTS):
            yield from request_figures(comparison, measures)
    if THROUGHPUT in measures:
        for comparison in _compared(bench, FEW, BULKS):
            name = f"datapath/{THROUGHPUT}/{comparison.case.name}"
            reading = throughput(comparison.case.protocol)
            yield from state_figures(name, comparison, reading, "MB/s")
    if FIRST in measures:
        for size in bench.extent.crowds:
            for comparison in _compared(bench, size, FIRSTS):
                name = f"datapath/{FIRST}/{comparison.case.name}/{size}"
                yield from state_figures(name, comparison, latency("p50"))


def request_figures(comparison: Comparison, measures: Collection[str]) -> Iterator[Figure]:
    """Yield what windows of requests say of the named measures."""
    case = comparison.case.name
    if LATENCY in measures:
        for quantile in QUANTILES:
            # Its quantile is not the last part: the figure is the median of windows.
            name = f"datapath/{LATENCY}/{quantile}/{case}"
            yield from state_figures(name, comparison, latency(quantile))
    if CPU in measures:
        yield from state_figures(f"datapath/{CPU}/{case}", comparison, cpu)


def latency(quantile: str) -> Reading:
    """Return what reads a quantile of a window's latencies."""
    return lambda window: window.latency_ns[quantile] / 1000


def cpu(window: Window) -> float:
    """Return the CPU time of a window's requests, each."""
    return window.cpu_ns / window.operations / 1000


def throughput(protocol: str) -> Reading:
    """Return what reads the megabytes a second of a window of bulks."""
    return lambda window: window.rate * BULK_BYTES[protocol] / 1e6


def state_figures(
    name: str, comparison: Comparison, reading: Reading, unit: str = "us"
) -> Iterator[Figure]:
    """Yield a figure a state, the median of its windows, and ratios of windows of one round."""
    rounds = comparison.rounds
    for state in rounds[0]:
        details = {"mode": comparison.case.mode, "operations": _operations(rounds, state)}
        yield median_figure(f"{name}/{state}", unit, _read(rounds, state, reading), None, details)
    for over, under in RATIOS:
        if over in rounds[0] and under in rounds[0]:
            pairs = zip(_read(rounds, over, reading), _read(rounds, under, reading), strict=True)
            ratios = [one / other for one, other in pairs]
            yield median_figure(f"{name}/{over}-by-{under}", "ratio", ratios)


def _read(rounds: Sequence[Round], state: str, reading: Reading) -> list[float]:
    return [reading(each[state]) for each in rounds]


def _operations(rounds: Sequence[Round], state: str) -> list[int]:
    return [each[state].operations for each in rounds]


def _compared(bench: Bench, size: int, cases: Sequence[Case]) -> Iterator[Comparison]:
    bench.progress(f"datapath: an agent with {size} services, and its peers")
    with Cluster(nodes=1, pods_per_node=2) as cluster, ExitStack() as undo:
        (node,) = cluster.nodes
        dialling, answering = node.pods
        dialled = dialled_objects(answering)
        crowd = list(chain(*map(objects.crowd_member, range(size - 1))))
        agent = started_agent(cluster, node, [*crowd, *dialled])
        turns = {
            "ours": undo.enter_context(packet_switch_of(agent)).turn,
            "nftables": undo.enter_context(nftables_on(node, crowd, dialled)).turn,
        }
        if size <= WALKED:
            turns["iptables"] = undo.enter_context(iptables_on(node, [*crowd, *dialled])).turn
        pod, machine = Ends(dialling, answering), Ends(untranslated(cluster, dialling), answering)
        variants = list(_variants(turns_of(turns), pod, machine))
        rounds = bench.extent.quads if len(variants) == 4 else bench.extent.fives
        yield from compare(bench, cases, variants, rounds)


def _variants(
    enters: Mapping[str, Callable[[], None]], pod: Ends, machine: Ends
) -> Iterator[Variant]:
    for name, enter in enters.items():
        if name == "ours":
            yield Variant("sockets", enter, pod, proxied=True)
            yield Variant("packets", enter, machine, proxied=True)
        else:
            yield Variant(name, enter, machine, name != "none")
