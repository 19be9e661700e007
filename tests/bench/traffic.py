# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet in traffic, by the kernel's run-time statistics.

A client outside talks to a node by its uplink alone: the other devices' programs are left off,
so that all that the uplink's program sees in a window is of one kind. Three states take turns: an
empty program, and those of two agents that the node has had, with few and with many services. Of
what begins a connection at egress there is no such window, nor of what goes to other nodes and
back: the other half would be replies. nanoseconds.py has these.

What a packet takes depends on where programs lie in memory, more than on most else, since caches
are not warm here: so all is loaded several times. It is chance, too, whether the one end that is
not ours looks like some service's: how what is not ours grows is told, and counts in
nanoseconds.py, where it has many ends.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family
from tests.bench.agents import packet_switch_of, started_agent
from tests.bench.attachment import Attachment, Switch
from tests.bench.bench import Bench
from tests.bench.comparison import WARM_UP_MS, Case, Ends, Variant, callers_of
from tests.bench.conversations import EGRESS, INGRESS, SIDES, Kind, device_facts
from tests.bench.dialled import NODE_PORT, dialled_objects, node_endpoint
from tests.bench.figures import Figure
from tests.bench.load import Client
from tests.bench.nanoseconds import FEW, MANY, UPLINK, Times, figures_of
from tests.bench.objects import crowded
from tests.bench.rounds import interleave
from tests.bench.runstats import runs_of, statistics
from tests.lab import foreign
from tests.lab.cluster import Cluster
from tests.lab.hosts import Node

MEASURE = "nanoseconds-traffic"
MEASURES = (MEASURE,)

# What each kind of packet took, round by round.
Taken: TypeAlias = dict[Kind, list[Times]]

SIDE_OF = {INGRESS: TCX_INGRESS, EGRESS: TCX_EGRESS}


class Load(NamedTuple):
    """What a window's client does, and of what kind its packets are."""

    mode: str
    kinds: tuple[Kind, ...]
    direct: bool = False

    def case(self, family: Family) -> Case:
        """Return it as a case."""
        return Case(MEASURE, family.label.lower(), self.mode, family.value, direct=self.direct)


LOADS = (
    Load("tcp-request", (Kind(INGRESS, "not-ours"), Kind(EGRESS, "not-ours")), direct=True),
    Load("tcp-request", (Kind(INGRESS, "request"), Kind(EGRESS, "reply"))),
    Load("udp-connect", (Kind(INGRESS, "begin"),)),
)


class State(NamedTuple):
    """A state of a node's uplink: what brings it about, who talks, and what runs by then."""

    variant: Variant
    programs: Mapping[str, int]


def traffic_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of all kinds; there is only one measure."""
    if MEASURE not in measures:
        return
    taken: Mapping[Family, Taken] = {family: {} for family in Family}
    for number in range(bench.extent.loads):
        load = f"load {number + 1} of {bench.extent.loads}"
        bench.progress(f"datapath: agents with {FEW} and with {MANY} services, statistics, {load}")
        _take(bench, taken)
    for family, rounds in taken.items():
        yield from figures_of(MEASURE, family, rounds, told=["not-ours"])


def _take(bench: Bench, taken: Mapping[Family, Taken]) -> None:
    """Load all programs, and add to what was taken of either family by others before."""
    with Cluster(nodes=1, pods_per_node=1) as cluster, ExitStack() as undo:
        (node,) = cluster.nodes
        switches = {"empty": undo.enter_context(empty_switch(node))}
        for size in (FEW, MANY):
            switches[str(size)] = undo.enter_context(uplink_switch(cluster, node, size))
        ends = Ends(cluster.client, node.pods[0])
        states = [state_of(name, node, ends, switches) for name in switches]
        undo.enter_context(statistics())
        for family, before in taken.items():
            for kind, rounds in rounds_of(bench, family, states).items():
                before.setdefault(kind, []).extend(rounds)


@contextmanager
def uplink_switch(cluster: Cluster, node: Node, size: int) -> Iterator[Switch]:
    """Have an agent with so many services; give what attaches its programs to its uplink alone."""
    dialled = dialled_objects(node.pods[0], NODE_PORT)
    agent = started_agent(cluster, node, crowded(dialled, size))
    ifindex, _ = device_facts(node.netns, UPLINK)
    with packet_switch_of(agent) as switch, ExitStack() as undo:
        uplink = switch.of_device(ifindex)
        undo.callback(uplink.turn, False)
        yield uplink


@contextmanager
def empty_switch(node: Node) -> Iterator[Switch]:
    """Give what attaches a program that does nothing to each side of a node's uplink."""
    ifindex, _ = device_facts(node.netns, UPLINK)
    with ExitStack() as undo:
        attachments = []
        for side, attach_type in SIDE_OF.items():
            program = foreign.passing_on()
            undo.callback(os.close, program)
            attachments.append(Attachment(f"empty-{side}", program, ifindex, attach_type))
        switch = Switch(node.netns, attachments)
        undo.callback(switch.turn, False)
        yield switch


def state_of(name: str, node: Node, ends: Ends, switches: Mapping[str, Switch]) -> State:
    """Return the state of this name, in which no other switch is on."""

    def enter() -> None:
        for other in switches.values():
            other.turn(other is switches[name])

    served = partial(node_endpoint, node)
    programs = {side: switches[name].program(SIDE_OF[side]) for side in SIDES}
    return State(Variant(name, enter, ends, name != "empty", served), programs)


def rounds_of(bench: Bench, family: Family, states: Sequence[State]) -> Taken:
    """Take all loads in each state by turns; return what each kind took, round by round."""
    cases = [load.case(family) for load in LOADS]
    with callers_of(bench, cases, [state.variant for state in states]) as callers:
        runs = [partial(_times, bench, state, callers[state.variant.name]) for state in states]
        taken = interleave(runs, bench.extent.triples // bench.extent.loads)
    names = [_key(state) for state in states]
    return {
        kind: [{name: ns[kind] for name, ns in zip(names, each, strict=True)} for each in taken]
        for load in LOADS
        for kind in load.kinds
    }


def _key(state: State) -> str | int:
    name = state.variant.name
    return int(name) if name.isdigit() else name


def _times(bench: Bench, state: State, callers: Sequence[Client]) -> dict[Kind, float]:
    """Bring a state about, and return the nanoseconds of a packet of each kind."""
    state.variant.enter()
    found: dict[Kind, float] = {}
    for load, caller in zip(LOADS, callers, strict=True):
        caller.window(WARM_UP_MS)
        before = {kind: runs_of(state.programs[kind.side]) for kind in load.kinds}
        caller.window(bench.extent.window_ms)
        for kind, runs in before.items():
            found[kind] = runs_of(state.programs[kind.side]).mean_since(runs)
    return found
