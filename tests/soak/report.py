# SPDX-License-Identifier: Apache-2.0
"""Shows what a soak has found: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from tests.soak.verdict import Result, quarters

SCHEMA = "pyproxy.soak/1"


def print_report(result: Result, wrong: Sequence[str]) -> None:
    """Print the tables, and the verdict as the last lines."""
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    console.print(_paths(result))
    console.print(_maps(result))
    for line in [*_memory(result), _changes(result)]:
        console.print(line, markup=False)
    for line in wrong:
        console.print(f"wrong: {line}", markup=False, style="red")
    connections = sum(path.connections for path in result.paths)
    console.print(
        f"[bold green]Good:[/] {connections} connections in {result.seconds:.0f} s, and none that"
        " failed without a reason"
        if not wrong
        else f"[bold red]Failed:[/] {len(wrong)} things are wrong"
    )


def write_json(path: Path, result: Result, wrong: Sequence[str]) -> None:
    """Write all that was found."""
    body = {"schema": SCHEMA, "good": not wrong, "complaints": list(wrong), **asdict(result)}
    # a sample is a tuple, which asdict() leaves as such
    body["samples"] = [sample._asdict() for sample in result.samples]
    body["rest"] = [sample._asdict() for sample in result.rest or ()]
    path.write_text(json.dumps(body, indent=1) + "\n")


def _paths(result: Result) -> Table:
    table = Table(
        title="Paths, IPv4 and IPv6 by turns; connections kept, datagrams and bulk data beside"
    )
    table.add_column("path", no_wrap=True)
    for head in ("connections", "to what stayed", "to what changed", "failed",
                 "to what died", "kept: failed", "MB, by hash", "datagrams", "lost"):  # fmt: skip
        table.add_column(head, justify="right", no_wrap=head == "to what died")
    for path in result.paths:
        table.add_row(
            path.name,
            str(path.connections),
            str(path.stayed),
            str(path.changing),
            _worded(path.failures),
            _worded(path.excused),
            str(len(path.kept)),
            f"{path.bytes / 1e6:.0f}",
            str(path.datagrams),
            str(path.lost),
        )
    return table


def _maps(result: Result) -> Table:
    samples = result.samples
    table = Table("map", "start", "middle", "end", "at most", title="Entries")
    for name in samples[-1].used if samples else ():
        counts = [each.used[name] for each in (samples[0], samples[len(samples) // 2], samples[-1])]
        if any(counts):
            bound = result.bounds.get(name)
            table.add_row(name, *map(str, counts), "" if bound is None else f"{bound:.0f}")
    return table


def _memory(result: Result) -> Iterator[str]:
    second, last = quarters(result.samples, result.seconds)
    for node in second[0].rss_mb if second and last else ():
        before, after = (mean(each.rss_mb[node] for each in part) for part in (second, last))
        yield f"{node}: VmRSS {before:.1f} MB in the second quarter, {after:.1f} MB in the last"


def _changes(result: Result) -> str:
    applied = ", ".join(f"{count:.0f} by {node}" for node, count in result.applied.items())
    return (
        f"{result.changes} changes of every service's endpoints were written, and applied: "
        f"{applied}; {result.deaths} times one died (seed {result.seed})"
    )


def _worded(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "0"
