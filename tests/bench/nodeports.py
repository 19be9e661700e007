# SPDX-License-Identifier: Apache-2.0
"""NodePorts: a rate through one by the same without a proxy, and by kube-proxy's two forms.

The measures named "fast" are of an agent with the fast path, in its place.

The client is a host outside of the cluster, on the nodes' network and in no node's cgroup. It
dials the first node, where the proxy is, for a backend that is there ("local") or on the other
node ("remote": that needs a source of the node's own). Four states take turns on the first node:
"none", where the client dials the pod itself, "ours", "nftables" (see ruleset.py) and "iptables"
(see chains.py). The other node has no proxy in any state.

Without a proxy packets take the same way: to a remote pod they are routed through the first node
as well, there and back. Else the ratio would say what a hop costs, and not what a proxy does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

from tests.bench import objects
from tests.bench.agents import packet_switch_of, started_agent
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
from tests.bench.dialled import NODE_PORT, dialled_objects, node_endpoint
from tests.bench.figures import Figure, Target, at_least
from tests.bench.iptables import iptables_on
from tests.bench.nftables import nftables_on
from tests.lab import netns
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Node

LOCAL, REMOTE = "nodeport-rate-local", "nodeport-rate-remote"
PACKETS = "nodeport-packets"
FAST_REMOTE, FAST_PACKETS = "nodeport-fast-remote", "nodeport-fast-packets"
FAST = (FAST_REMOTE, FAST_PACKETS)

# The second target: by the nftables rules, in the same rounds.
NEVER_BELOW = at_least(1.0)
BEATS = {PACKETS: at_least(1.15), FAST_PACKETS: at_least(1.5)}

CASES = (
    Case(LOCAL, "tcp4", "tcp-connect", 4, at_least(0.95), sizes=(FEW,)),
    Case(LOCAL, "tcp6", "tcp-connect", 6, at_least(0.95), sizes=(FEW,)),
    Case(PACKETS, "udp4", "udp-burst", 4, sizes=(FEW,)),
    Case(PACKETS, "udp6", "udp-burst", 6, sizes=(FEW,)),
    Case(REMOTE, "tcp4", "tcp-connect", 4, at_least(0.85), sizes=(FEW,)),
    Case(REMOTE, "tcp6", "tcp-connect", 6, at_least(0.85), sizes=(FEW,)),
    Case(FAST_PACKETS, "udp4", "udp-burst", 4, sizes=(FEW,)),
    Case(FAST_PACKETS, "udp6", "udp-burst", 6, sizes=(FEW,)),
    Case(FAST_REMOTE, "tcp4", "tcp-connect", 4, at_least(1.0), sizes=(FEW,)),
    Case(FAST_REMOTE, "tcp6", "tcp-connect", 6, at_least(1.0), sizes=(FEW,)),
    Case(FAST_REMOTE, "kept-tcp4", "tcp-request", 4, at_least(1.0), sizes=(FEW,)),
    Case(FAST_REMOTE, "kept-tcp6", "tcp-request", 6, at_least(1.0), sizes=(FEW,)),
    Case(FAST_REMOTE, "udp4", "udp-burst", 4, at_least(1.0), sizes=(FEW,)),
    Case(FAST_REMOTE, "udp6", "udp-burst", 6, at_least(1.0), sizes=(FEW,)),
)
MEASURES = tuple(dict.fromkeys(case.measure for case in CASES))

# A host that is told of a shorter way would take it.
NO_REDIRECTS = (
    "net/ipv4/conf/all/send_redirects",
    "net/ipv4/conf/eth0/send_redirects",
    "net/ipv6/conf/eth0/accept_redirects",
)


def targets(case: Case) -> dict[str, Target | None]:
    """Return what a case is to reach, by the state that it is divided by."""
    by_nftables = BEATS.get(case.measure, NEVER_BELOW)
    return {"none": case.target, "nftables": by_nftables, "iptables": None}


def node_port_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of the named measures: those of a backend on the node, then others."""
    chosen = [case for case in CASES if case.measure in measures]
    for fast in (False, True):
        for remote in (False, True):
            cases = [case for case in chosen if (case.measure in FAST) is fast]
            cases = [case for case in cases if (case.measure in {REMOTE, FAST_REMOTE}) is remote]
            yield from _figures_at(bench, cases, remote=remote, fast=fast)


def _figures_at(
    bench: Bench, cases: Sequence[Case], *, remote: bool, fast: bool
) -> Iterator[Figure]:
    if not cases:
        return
    where = ("elsewhere" if remote else "on the node") + (", the fast path" if fast else "")
    bench.progress(f"datapath: an agent with {FEW} services, NodePorts, the backend {where}")
    with Cluster(nodes=2, pods_per_node=1) as cluster, ExitStack() as undo:
        node = cluster.nodes[0]
        (answering,) = cluster.nodes[remote].pods
        if remote:
            lead_through(node, cluster.client, cluster.nodes[1], answering)
        crowd = list(chain(*map(objects.crowd_member, range(FEW - 1))))
        dialled = dialled_objects(answering, NODE_PORT)
        agent = started_agent(cluster, node, [*crowd, *dialled], fast=fast)
        switch = undo.enter_context(packet_switch_of(agent))
        tables = undo.enter_context(nftables_on(node, crowd, dialled))
        chains = undo.enter_context(iptables_on(node, [*crowd, *dialled]))
        states = turns_of({"ours": switch.turn, "nftables": tables.turn, "iptables": chains.turn})
        ends = Ends(cluster.client, answering)
        variants = [
            Variant(name, enter, ends, name != "none", partial(node_endpoint, node))
            for name, enter in states.items()
        ]
        for comparison in compare(bench, cases, variants, bench.extent.quads):
            yield from figures_of(bench, comparison, switch.names)


def lead_through(node: Node, client: Host, other: Node, pod: Host) -> None:
    """Have packets between a client and another node's pod pass a node, both ways."""
    for host in (node, client):
        netns.inside(host.netns, _send_no_redirects)
    for family in (4, 6):
        ip, by = ("ip", f"-{family}", "route", "add"), ("via", node.address(family))
        client.run(*ip, pod.address(family), *by, check=True)
        other.run(*ip, client.address(family), *by, check=True)


def _send_no_redirects() -> None:
    for name in NO_REDIRECTS:
        Path("/proc/sys", name).write_text("0")


def turns_of(turns: Mapping[str, Callable[[bool], None]]) -> dict[str, Callable[[], None]]:
    """Return what brings each state about, "none" first: all others are left before.

    `turns` are what brings each of them about alone, and ends it.
    """

    def enter(wanted: str) -> None:
        for turn in (turn for name, turn in turns.items() if name != wanted):
            turn(False)
        if wanted in turns:
            turns[wanted](True)

    return {name: partial(enter, name) for name in ("none", *turns)}


def figures_of(bench: Bench, comparison: Comparison, attached: Sequence[str]) -> Iterator[Figure]:
    """Yield what "ours" reached in a case, by each of the other states."""
    case, details = comparison.case, {"services": FEW, "attached": attached}
    for under, target in targets(case).items():
        name = f"{case.measure}/{case.name}/{FEW}/by-{under}"
        yield ratio_figure(bench, comparison, Ratio(name, "ours", under, target), details)
