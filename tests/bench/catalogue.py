# SPDX-License-Identifier: Apache-2.0
"""The measures by name, and which of them a command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from pyproxy.errors import ConfigError
from tests.bench import nanoseconds, nodeports, packets, peers, rates, traffic
from tests.bench.bench import Bench
from tests.bench.figures import Figure
from tests.bench.memory import api_memory_figures
from tests.bench.programming import api_programming_figures, programming_figures
from tests.bench.startup import startup_figures, status_figures

# What shares agents, with what takes any of its measures.
SHARED = (
    (rates.MEASURES, rates.rate_figures),
    (packets.MEASURES, packets.packet_figures),
    (nodeports.MEASURES, nodeports.node_port_figures),
    (peers.MEASURES, peers.peer_figures),
    (nanoseconds.MEASURES, nanoseconds.nanosecond_figures),
    (traffic.MEASURES, traffic.traffic_figures),
)
DATAPATH = tuple(name for measures, _ in SHARED for name in measures)
CONTROL_PLANE = {
    "programming-latency": programming_figures,
    "programming-latency-api": api_programming_figures,
    "start-up": startup_figures,
    "status-time": status_figures,
    "agent-memory-api": api_memory_figures,
}
GROUPS = {"datapath": DATAPATH, "control-plane": tuple(CONTROL_PLANE)}
NAMES = (*DATAPATH, *CONTROL_PLANE)

# What --quick takes unless it is told what: two minutes of the things that break first.
QUICK_NAMES = ("latency", "cpu-request", "programming-latency", "start-up", "status-time")

# Yields figures; what it raises concerns its own measures only.
Part = Callable[[Bench], Iterator[Figure]]


def selected(group: str, only: Sequence[str], *, quick: bool = False) -> list[str]:
    """Return the names of a group ("all": of all groups), or those of `only` that it has.

    `quick`: without `only`, those of QUICK_NAMES that it has. Raises ConfigError for a
    name that is in no group, or not in this one.
    """
    names = NAMES if group == "all" else GROUPS[group]
    for name in only:
        if name not in names:
            where = "" if group == "all" else f" in {group}"
            raise ConfigError(f'no measure "{name}"{where}', f"take one of {', '.join(names)}")
    wanted = only or (QUICK_NAMES if quick else names)
    return [name for name in names if name in wanted]


def parts(names: Collection[str]) -> dict[str, Part]:
    """Return what is to be run for these names, by what to call it when it fails.

    The sockets path is one part, the packet path another, NodePorts a third one: the measures of
    each share agents.
    """
    chosen: dict[str, Part] = {}
    for measures, figures in SHARED:
        wanted = [name for name in measures if name in names]
        if wanted:
            chosen[", ".join(wanted)] = partial(figures, measures=wanted)
    chosen |= {name: part for name, part in CONTROL_PLANE.items() if name in names}
    return chosen
