# SPDX-License-Identifier: Apache-2.0
"""What a soak has found, and what is wrong with it: pure, no system call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean

from tests.soak.holding import CHUNK, CHUNKS_A_SECOND, ROUNDS_A_SECOND, SIZES
from tests.soak.sampling import Sample
from tests.soak.services import FAMILIES

# A machine may be slower than what is asked of it, but less than this share of what the wanted time
# comes to is no soak: of the new connections on each path, of bulk data and datagrams, of the
# changes of endpoints, and of those that an agent has applied: what comes while it is busy with a
# change it takes together.
FLOORS = {"connections": 0.75, "kept": 0.5, "changes": 0.75, "applied": 0.25}
KEPT_A_SECOND = {
    "datagrams": len(FAMILIES) * ROUNDS_A_SECOND * len(SIZES),
    "bytes": len(FAMILIES) * CHUNKS_A_SECOND * CHUNK,
}

# What may differ between quarters of the time: a table that has as many new entries as old ones
# differs by chance, memory by what Python's allocator does with it.
SAME = 1.25
RSS_TOLERANCE_MB = 1.5
# windows of mapped arrays are counted as the agent's, and made when they are needed: the last ones
# by the first sweep (see sweeper.py), a minute after the start
WARM_S = 90.0
WARMING_MB = 2.5

# these maps keep what is over until its room is needed: all that can be said is how large they are
KEEPING = ("nat", "fragments")

SHORTEST_S = 50
"""In a quarter of it the tables are as full as they get: CLOSED_S, and a second."""
CLOSED_S = 10
"""The default tcpClosedTimeout: so long a connection stays in the table when it is over."""
LAG_S = 4.0
"""Ages are exact to a second, and who was held up asks faster for some seconds."""


@dataclass
class Found:
    """What a path has done; counts of failures are by what went wrong.

    `stayed` and `changing` are answers of the endpoint that stayed and of the others, `foreign`
    those of hosts that are no endpoints; on a `sticky` path one of them may have all. `excused`
    are failures that had a reason, see changes.py; `kept` are sentences about kept connections and
    datagrams.
    """

    name: str
    asserted: bool
    connections: int = 0
    sticky: bool = False
    stayed: int = 0
    changing: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    excused: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    datagrams: int = 0
    lost: int = 0
    kept: list[str] = field(default_factory=list)


@dataclass
class Result:
    """All of a soak. `changes` were written, `applied` by each node; `bounds` are of maps.

    It took `seconds`; what was to happen is as much as `wanted_seconds` come to.
    """

    seconds: float
    wanted_seconds: float
    rate: float
    seed: int
    paths: list[Found]
    changes: int
    wanted_changes: float
    applied: dict[str, float]
    deaths: int
    samples: list[Sample]
    bounds: dict[str, float]
    rest: tuple[Sample, Sample] | None = None
    problems: list[str] = field(default_factory=list)


def table_bound(packet_paths: int, rate: float) -> float:
    """Return how many connections a family's table may have on a node.

    Each path asks by turns in both families. A connection is over in milliseconds, and stays for
    CLOSED_S after that. Besides, a path has one kept connection, one of datagrams, and one now.
    """
    return packet_paths * (rate / 2 * (CLOSED_S + LAG_S) + 3)


def complaints(result: Result) -> list[str]:
    """Return all that is wrong with a soak, in sentences."""
    checks: list[Callable[[Result], Iterator[str]]] = [
        _failed, too_little, _unapplied, _too_full, _grown, _larger, _left,
    ]  # fmt: skip
    return [each for check in checks for each in check(result)]


def quarters(samples: Sequence[Sample], seconds: float) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of the second quarter of the time, and of the last."""
    part = seconds / 4
    return (
        [each for each in samples if part <= each.at < 2 * part],
        [each for each in samples if 3 * part <= each.at],
    )


def _failed(result: Result) -> Iterator[str]:
    for path in result.paths:
        for error, count in path.failures.items():
            yield f"{path.name}: {count} connections failed: {error}"
        for who, count in path.foreign.items():
            yield f"{path.name}: {who}, which is no endpoint, answered {count} times"
        if path.lost:
            yield f"{path.name}: {path.lost} of {path.datagrams} datagrams were lost"
        yield from (f"{path.name}: {said}" for said in path.kept)


def is_over(result: Result, patience: float) -> bool:
    """Say whether a soak may end: its time is over, and `patience` seconds too if need be."""
    late = result.seconds - result.wanted_seconds
    return late >= patience or (late >= 0 and not any(too_little(result)))


def too_little(result: Result) -> Iterator[str]:
    """Give a sentence for each thing that has not happened often enough yet."""
    yield from _idle(result)
    if result.changes < FLOORS["changes"] * result.wanted_changes:
        yield f"only {result.changes} changes of {result.wanted_changes:.0f} were written"


def _idle(result: Result) -> Iterator[str]:
    for path in result.paths:
        reached = path.connections / result.wanted_seconds
        if reached < FLOORS["connections"] * result.rate:
            yield (
                f"{path.name}: {reached:.0f} connections a second of {result.rate:.0f}: this was no"
                " soak; the machine is too slow, or busy (--rate asks for fewer)"
            )
        for what, wanted in KEPT_A_SECOND.items() if path.asserted else ():
            kept = getattr(path, what) / result.wanted_seconds
            if kept < FLOORS["kept"] * wanted:
                yield f"{path.name}: {kept:.0f} {what} a second of {wanted}: this was no soak"
        if not path.sticky and not (path.stayed and path.changing):
            yield f"{path.name}: some endpoints had no connection at all"


def _unapplied(result: Result) -> Iterator[str]:
    for node, applied in result.applied.items():
        if applied < FLOORS["applied"] * result.changes:
            yield f"{node}: {applied:.0f} of {result.changes} changes were applied"


def _too_full(result: Result) -> Iterator[str]:
    for name, bound in result.bounds.items():
        most = max((each.used.get(name, 0) for each in result.samples), default=0)
        if most > bound:
            yield f"{name}: {most} entries, and there should be {bound:.0f} at most"


def _grown(result: Result) -> Iterator[str]:
    second, last = quarters(result.samples, result.seconds)
    if not second or not last:
        yield "too short to tell whether tables and memory are flat"
        return
    for name in second[0].used:
        if name.endswith(KEEPING):
            continue
        before, after = (max(each.used[name] for each in part) for part in (second, last))
        if after > SAME * before + 10:
            yield f"{name} has grown from {before} to {after} entries"


def _larger(result: Result) -> Iterator[str]:
    second, last = quarters(result.samples, result.seconds)
    if not second or not last:
        return
    warming = WARMING_MB if second[0].at < WARM_S else 0.0
    for node in second[0].rss_mb:
        before, after = (mean(each.rss_mb[node] for each in part) for part in (second, last))
        if after > before + RSS_TOLERANCE_MB + warming:
            yield f"{node}: the agent has grown from {before:.1f} to {after:.1f} MB"


def _left(result: Result) -> Iterator[str]:
    yield from result.problems
    if result.rest:
        for name, before, after in programmed(*result.rest):
            if before != after:
                yield f"{name}: {before} entries at the start, {after} at the end"


def programmed(start: Sample, end: Sample) -> Iterator[tuple[str, int, int]]:
    """Give what the agent itself has written, with the same endpoints both times."""
    for name in start.used:
        if name.endswith(("frontends", "services", "slots", "members")):
            yield name, start.used[name], end.used[name]
