# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet by BPF_PROG_TEST_RUN: of every kind, at both sides, in both families.

A node has had two agents, with few and with many services, whose programs and maps stay. Four
things take turns: an empty program by itself, the same entered by the program that rewinds the
packet (see rewind.py), and the programs of each agent entered so. What the rewinding takes is left
out:

    ns = (rewound and ours) - (rewound and empty) + (empty by itself)

Caches and branches are warm, as one packet is run through many times: figures of programs, to be
compared with each other. What they take in traffic is told by the kernel's statistics: see
traffic.py.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, count
from typing import NamedTuple, TypeAlias

from pyproxy.errors import PyproxyError
from pyproxy.kernel import libbpf
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.testrun import Options
from pyproxy.model import Family
from tests.bench.agents import started_agent
from tests.bench.bench import Bench
from tests.bench.conversations import (
    EGRESS,
    FAR,
    INGRESS,
    KINDS,
    SIDES,
    Conversations,
    Kind,
    Uplink,
    device_facts,
    ends_of,
    served,
)
from tests.bench.figures import Figure, at_most, median_figure
from tests.bench.objects import crowded
from tests.bench.rewind import Rewind
from tests.bench.rounds import interleave
from tests.datapath.packets import IP_BYTES
from tests.datapath.prog_run import IFINDEX_AT, SKB_BYTES
from tests.lab import foreign, netns
from tests.lab.cluster import Cluster
from tests.lab.hosts import Node

MEASURE = "nanoseconds"
MEASURES = (MEASURE,)
FEW, MANY = 10, 10_000

TARGETS = {
    "not-ours": at_most(140),
    "request": at_most(300),
    "reply": at_most(300),
    "begin": None,
}
GROWTH = at_most(1.10)

TCP_BYTES = 20
RUNS = 5_000
# Each makes a connection that stays: all of them together leave the table mostly free.
BEGINNINGS = 50
UPLINK = "eth0"

# What a round measured: nanoseconds by "empty", "rewound", and the number of services.
Times: TypeAlias = Mapping[str | int, float]


class Place(NamedTuple):
    """A node's conversations, and the programs of each side behind a rewinding one."""

    conversations: Conversations
    rewinds: Mapping[str, Rewind]


def nanosecond_figures(bench: Bench, measures: Collection[str]) -> Iterator[Figure]:
    """Yield the figures of all kinds; there is only one measure."""
    if MEASURE not in measures:
        return
    bench.progress(f"datapath: agents with {FEW} and with {MANY} services, single packets")
    with Cluster(nodes=1, pods_per_node=1) as cluster, ExitStack() as undo:
        (node,) = cluster.nodes
        uplinks = {
            size: undo.enter_context(uplink_with(cluster, node, size)) for size in (FEW, MANY)
        }
        empty = foreign.passing_on()
        undo.callback(os.close, empty)
        for family in Family:
            places = {
                size: undo.enter_context(place_on(uplink, node, family))
                for size, uplink in uplinks.items()
            }
            rewound = undo.enter_context(_rewind(empty, family))
            kinds = ", ".join(map(str, KINDS))
            bench.progress(f"datapath: {bench.extent.quads} rounds of {kinds}, {family.label}")
            yield from figures_of(MEASURE, family, _rounds(bench, places, empty, rewound))


def figures_of(
    measure: str,
    family: Family,
    taken: Mapping[Kind, Sequence[Times]],
    told: Collection[str] = (),
) -> Iterator[Figure]:
    """Yield the figures of a family: the empty program's, each kind's, and how that grows.

    How the kinds of `told` names grow has no target.
    """
    label = family.label.lower()
    empties = [times["empty"] for rounds in taken.values() for times in rounds]
    yield median_figure(f"datapath/{measure}/empty/{label}", "ns", empties)
    for kind, rounds in taken.items():
        name = f"datapath/{measure}/{kind}/{label}"
        own = {size: [_own(times, size) for times in rounds] for size in (FEW, MANY)}
        details = {"rounds": [{str(key): ns for key, ns in times.items()} for times in rounds]}
        for size, samples in own.items():
            yield median_figure(f"{name}/{size}", "ns", samples, TARGETS[kind.name], details)
        growth = [many / few for few, many in zip(own[FEW], own[MANY], strict=True)]
        target = None if kind.name in told else GROWTH
        yield median_figure(f"{name}/{MANY}-by-{FEW}", "ratio", growth, target)


def _own(times: Times, size: int) -> float:
    return times[size] - times["rewound"] + times["empty"] if "rewound" in times else times[size]


@contextmanager
def uplink_with(cluster: Cluster, node: Node, size: int) -> Iterator[Uplink]:
    """Load what an agent with so many services loads; give it with the node's uplink."""
    agent = started_agent(cluster, node, crowded(list(chain(*served(node))), size))
    agent.stop()
    with ExitStack() as undo:
        (directory,) = Pins(agent.bpffs, Family.IPV4).program_directories()
        programs = {side: libbpf.obj_get(str(directory / side)) for side in SIDES}
        for fd in programs.values():
            undo.callback(os.close, fd)
        yield Uplink(node.netns, *device_facts(node.netns, UPLINK), programs)


@contextmanager
def place_on(uplink: Uplink, node: Node, family: Family) -> Iterator[Place]:
    """Make the conversations of a family on a node, for a block."""
    with ExitStack() as undo:
        rewinds = {
            side: undo.enter_context(_rewind(fd, family)) for side, fd in uplink.programs.items()
        }
        conversations = Conversations(uplink, node, family)
        conversations.begin()
        yield Place(conversations, rewinds)


def _rewind(program: int, family: Family) -> Rewind:
    return Rewind(program, IP_BYTES[family], TCP_BYTES)


def _rounds(
    bench: Bench, places: Mapping[int, Place], empty: int, rewound: Rewind
) -> dict[Kind, list[Times]]:
    """Take all kinds in each state, one after another: what comes and goes meets all of them."""
    cpu, few, series = bench.client_cpu, places[FEW].conversations, count()
    frames = {kind: few.frame(kind, 0) for kind in KINDS}

    def by_itself(kind: Kind) -> float:
        return timed(few.uplink, empty, frames[kind], _runs(kind), cpu)[0]

    def rewound_empty(kind: Kind) -> float:
        rewound.write(frames[kind], kind.steps)
        return timed(few.uplink, rewound.fd, frames[kind], _runs(kind), cpu)[0]

    def ours(place: Place, kind: Kind) -> float:
        return sample(place, kind, next(series), cpu)

    states: dict[str | int, Callable[[Kind], float]] = {
        "empty": by_itself,
        "rewound": rewound_empty,
        **{size: partial(ours, place) for size, place in places.items()},
    }
    runs = [partial(_of_all_kinds, state) for state in states.values()]
    taken = interleave(runs, bench.extent.quads)
    return {
        kind: [{state: ns[kind] for state, ns in zip(states, each, strict=True)} for each in taken]
        for kind in KINDS
    }


def _of_all_kinds(state: Callable[[Kind], float]) -> dict[Kind, float]:
    return {kind: state(kind) for kind in KINDS}


def _runs(kind: Kind) -> int:
    return BEGINNINGS if kind.begins else RUNS


def sample(place: Place, kind: Kind, series: int, cpu: int) -> float:
    """Return what a packet of a kind takes, with the rewinding."""
    conversations, uplink = place.conversations, place.conversations.uplink
    if kind.begins and kind.side == EGRESS:
        opening, rewind = conversations.opening(FAR, series), place.rewinds[INGRESS]
        rewind.write(opening, kind.steps)
        timed(uplink, rewind.fd, opening, BEGINNINGS, cpu)
    frame, rewind = conversations.frame(kind, series), place.rewinds[kind.side]
    rewind.write(frame, kind.steps)
    ns, left = timed(uplink, rewind.fd, frame, _runs(kind), cpu)
    family = conversations.family
    addresses = [[end.address for end in ends_of(each, family)] for each in (frame, left)]
    if (addresses[0] != addresses[1]) != kind.is_ours:
        raise PyproxyError(f"{kind} was to be {'' if kind.is_ours else 'not '}translated")
    return ns


def timed(uplink: Uplink, fd: int, frame: bytes, runs: int, cpu: int) -> tuple[float, bytes]:
    """Run a program so often on a frame of a device; return the nanoseconds of a run, and what
    is left of the frame.
    """
    given = ctypes.create_string_buffer(frame, len(frame))
    left = ctypes.create_string_buffer(len(frame))
    context = (ctypes.c_uint8 * SKB_BYTES)()
    context[IFINDEX_AT : IFINDEX_AT + 4] = list(uplink.ifindex.to_bytes(4, sys.byteorder))
    options = Options(
        sz=ctypes.sizeof(Options),
        data_in=ctypes.addressof(given),
        data_out=ctypes.addressof(left),
        data_size_in=len(frame),
        data_size_out=len(frame),
        ctx_in=ctypes.addressof(context),
        ctx_size_in=SKB_BYTES,
        repeat=runs,
    )

    def work() -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
        libbpf.prog_test_run(fd, options)

    netns.inside(uplink.namespace, work)
    return float(options.duration), left.raw
