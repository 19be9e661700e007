# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet in traffic, by the kernel's run-time statistics.

A client outside talks to a node by its uplink alone: the other devices' programs are left off,
so that all that the uplink's program sees in a window is of one kind. Three states take turns: an
empty program, and those of two agents that the node has had, with few and with many services. What
leaves for a backend elsewhere is never answered: replies would come in and leave by the same
device. So there are none of those that come in from elsewhere; nanoseconds.py has these.

What a packet takes depends on where programs lie in memory, more than on most else, since caches
are not warm here: so all is loaded several times. It is chance, too, whether the one end that is
not ours looks like some service's: how what is not ours grows is told, and counts in
nanoseconds.py, where it has many ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from pyproxy.kernel.programs import TCX_EGRESS, TCX_INGRESS
from pyproxy.model import Family
from tests.bench import objects
from tests.bench.agents import packet_switch_of, started_agent
from tests.bench.attachment import Attachment, Switch
from tests.bench.bench import Bench
from tests.bench.comparison import WARM_UP_MS
from tests.bench.conversations import (
    CLUSTER_IPS,
    EGRESS,
    FAR,
    INGRESS,
    NEAR,
    NODE_PORTS,
    SIDES,
    Kind,
    device_facts,
)
from tests.bench.dialled import TARGET_PORT, dialled_objects, pod_endpoint, spawner
from tests.bench.figures import Figure
from tests.bench.load import Client, Endpoint, client, serving
from tests.bench.nanoseconds import FEW, MANY, UPLINK, Times, figures_of
from tests.bench.nodeports import lead_through
from tests.bench.rounds import interleave
from tests.bench.runstats import runs_of, statistics
from tests.lab import foreign, netns
from tests.lab.cluster import Cluster
from tests.lab.hosts import Node

MEASURE = "nanoseconds-traffic"
MEASURES = (MEASURE,)

IN_FRONT = 29  # programs, of 64 bytes each

# What each kind of packet took, round by round.
Taken: TypeAlias = dict[Kind, list[Times]]

SIDE_OF = {INGRESS: TCX_INGRESS, EGRESS: TCX_EGRESS}


class Load(NamedTuple):
    """What a window's client does, of what kind its packets are, and where they go.

    That is a service by its NodePort, or "" for the pod itself. `part` of a window's time is enough
    for what leaves a connection behind with each packet: the more of those there are, the longer is
    the search for a source port that is free.
    """

    mode: str
    kinds: tuple[Kind, ...]
    service: str
    part: float = 1.0


# FAR's datagrams are never answered, so that each packet at a side is of one kind.
LOADS = (
    Load("tcp-request", (Kind(INGRESS, "not-ours"), Kind(EGRESS, "not-ours")), ""),
    Load("tcp-request", (Kind(INGRESS, "request"), Kind(EGRESS, "reply")), NEAR),
    Load("udp-send", (Kind(EGRESS, "request"),), FAR),
    Load("udp-open", (Kind(INGRESS, "begin"), Kind(EGRESS, "begin")), FAR, part=0.2),
)


class State(NamedTuple):
    """A state of the node's uplink: what brings it about, and the programs that run by then.

    Without a proxy clients dial pods for services.
    """

    name: str
    enter: Callable[[], object]
    programs: Mapping[str, int]
    proxied: bool

    @property
    def key(self) -> str | int:
        """What its times are named: the number of services, where it has some."""
        return int(self.name) if self.proxied else self.name


class Lab:
    """A node with a pod, another node's pod, and a client outside that reaches both by the node."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node, other = cluster.nodes
        self.client = cluster.client
        self.pods = {NEAR: self.node.pods[0], FAR: other.pods[0]}
        lead_through(self.node, self.client, other, self.pods[FAR])

    def objects(self) -> list[objects.Object]:
        """Return the services of both pods."""
        ports, far = {"UDP": TARGET_PORT}, self.pods[FAR]
        return [
            *dialled_objects(self.pods[NEAR], NODE_PORTS[NEAR]),
            objects.service(FAR, CLUSTER_IPS[FAR], list(ports), NODE_PORTS[FAR]),
            objects.slice_of(FAR, "IPv4", [far.ipv4], ports, far.node_name),
            objects.slice_of(FAR, "IPv6", [far.ipv6], ports, far.node_name),
        ]

    def endpoint(self, load: Load, family: int, *, proxied: bool) -> Endpoint:
        """Return what a load's client dials."""
        if load.service and proxied:
            return Endpoint(self.node.address(family), NODE_PORTS[load.service])
        return pod_endpoint(self.pods[load.service or NEAR], family)

    @contextmanager
    def answering(self, bench: Bench, family: int) -> Iterator[None]:
        """Have the near pod answer, and the far one keep silence, for a block."""
        near, cpu = self.pods[NEAR], bench.server_cpu
        with ExitStack() as undo:
            at, spawn = pod_endpoint(near, family), spawner(near)
            undo.enter_context(serving(spawn, bench.tools, "tcp", at, name=NEAR, cpu=cpu))
            undo.enter_context(netns.inside(self.pods[FAR].netns, partial(_silent, family)))
            yield


def _silent(family: int) -> socket.socket:
    """Return a socket that takes what comes and never answers, where ICMP would else."""
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", TARGET_PORT))
    return sock


def traffic_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of all kinds; there is only one measure."""
    if MEASURE not in measures:
        return
    taken: Mapping[Family, Taken] = {family: {} for family in Family}
    for number in range(bench.extent.loads):
        load = f"load {number + 1} of {bench.extent.loads}"
        bench.progress(f"datapath: agents with {FEW} and with {MANY} services, statistics, {load}")
        _take(bench, taken, number)
    for family, rounds in taken.items():
        yield from figures_of(MEASURE, family, rounds, told=["not-ours"])


def _take(bench: Bench, taken: Mapping[Family, Taken], number: int) -> None:
    """Load all programs, and add to what was taken of either family by others before.

    They lie elsewhere than before: those of the agents change places, and more of nobody's lie in
    front of them.
    """
    with Cluster(nodes=2, pods_per_node=1) as cluster, ExitStack() as undo:
        for _ in range(number * IN_FRONT):
            undo.callback(os.close, foreign.passing_on())
        lab = Lab(cluster)
        sizes = (MANY, FEW) if number % 2 else (FEW, MANY)
        states = undo.enter_context(states_of(lab, sizes))
        undo.enter_context(statistics())
        for family, before in taken.items():
            for kind, rounds in rounds_of(bench, lab, family, states).items():
                before.setdefault(kind, []).extend(rounds)


@contextmanager
def states_of(lab: Lab, sizes: Sequence[int]) -> Iterator[list[State]]:
    """Have agents with so many services; give the uplink's states, an empty program's first."""
    with ExitStack() as undo:
        switches = {"empty": undo.enter_context(empty_switch(lab.node))}
        for size in sizes:
            switches[str(size)] = undo.enter_context(uplink_switch(lab, size))

        def enter(name: str) -> None:
            for other in switches.values():
                other.turn(other is switches[name])

        yield [
            State(
                name,
                partial(enter, name),
                {side: switch.program(SIDE_OF[side]) for side in SIDES},
                name != "empty",
            )
            for name, switch in switches.items()
        ]


@contextmanager
def uplink_switch(lab: Lab, size: int) -> Iterator[Switch]:
    """Have an agent with so many services; give what attaches its programs to the uplink alone."""
    agent = started_agent(lab.cluster, lab.node, objects.crowded(lab.objects(), size))
    ifindex, _ = device_facts(lab.node.netns, UPLINK)
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


def rounds_of(bench: Bench, lab: Lab, family: Family, states: Sequence[State]) -> Taken:
    """Take all loads in each state by turns; return what each kind took, round by round."""
    with ExitStack() as undo:
        undo.enter_context(lab.answering(bench, family.value))

        def caller(load: Load, state: State) -> Client:
            to = lab.endpoint(load, family.value, proxied=state.proxied)
            spawn = spawner(lab.client)
            return undo.enter_context(client(spawn, bench.tools, load.mode, to, bench.client_cpu))

        runs = [
            partial(_times, bench, state, [caller(load, state) for load in LOADS])
            for state in states
        ]
        taken = interleave(runs, bench.extent.triples // bench.extent.loads)
    return {
        kind: [{s.key: ns[kind] for s, ns in zip(states, each, strict=True)} for each in taken]
        for load in LOADS
        for kind in load.kinds
    }


def _times(bench: Bench, state: State, callers: Sequence[Client]) -> dict[Kind, float]:
    """Bring a state about, and return the nanoseconds of a packet of each kind."""
    state.enter()
    found: dict[Kind, float] = {}
    for load, caller in zip(LOADS, callers, strict=True):
        caller.window(max(1, round(WARM_UP_MS * load.part)))
        before = {kind: runs_of(state.programs[kind.side]) for kind in load.kinds}
        caller.window(max(1, round(bench.extent.window_ms * load.part)))
        for kind, runs in before.items():
            found[kind] = runs_of(state.programs[kind.side]).mean_since(runs)
    return found
