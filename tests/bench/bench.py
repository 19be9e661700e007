# SPDX-License-Identifier: Apache-2.0
"""What every measure is handed: the tools, how long to go on, and where progress goes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tests.bench.load import Tools


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Pairs are many and windows short: what else runs on the machine comes and goes in seconds,
    and both windows of a pair should meet the same of it. In the same 16 s and under the same
    foreign load, the interval of a ratio that is 1 was 0.45 wide with 15 pairs of 100 ms, 0.16
    with 45 of 30 ms and 0.01 with 150 of 8 ms. A window of 20 ms still has 500 connections.
    Triples are for three states and quads for four; their number is one of all orders the same
    number of times, also where they are shared between `loads`: programs that are loaded anew lie
    elsewhere, which alone changes what a packet takes by 30 ns. Fives take ten orders (rounds.py).
    `crowds` count services that first packets meet: nft alone takes minutes to load 10,000.
    """

    pairs: int
    triples: int
    quads: int
    fives: int
    loads: int
    window_ms: int
    changes: int
    starts: int
    runs: int
    crowds: tuple[int, ...]


FULL = Extent(
    pairs=151,
    triples=90,
    quads=96,
    fives=30,
    loads=5,
    window_ms=30,
    changes=120,
    starts=7,
    runs=15,
    crowds=(1, 1_000, 10_000),
)
QUICK = Extent(
    pairs=21,
    triples=18,
    quads=24,
    fives=20,
    loads=3,
    window_ms=20,
    changes=20,
    starts=2,
    runs=10,
    crowds=(1, 1_000),
)


@dataclass(frozen=True)
class Bench:
    """A run of the benchmarks.

    The CPUs are where clients and servers run: see placement(). `progress` takes a line on
    what is being done now.
    """

    tools: Tools
    extent: Extent
    client_cpu: int
    server_cpu: int
    progress: Callable[[str], None]


def placement(allowed: Collection[int], *, apart: bool = False) -> tuple[int, int]:
    """Return the CPUs for client and server, from those that this process may use.

    Both are the last one unless they are to be `apart`. They take turns, so one CPU is enough,
    and it is the strict choice: on two, each message wakes an idle CPU, which in a virtual
    machine takes longer than everything that is measured here (15,100 connections a second on
    two CPUs, 35,400 on one) and hides what a proxy adds, and the spread is three times as
    wide. The agent, when it runs, has the other CPUs.
    """
    last, *rest = sorted(allowed, reverse=True)
    return last, rest[0] if apart and rest else last
