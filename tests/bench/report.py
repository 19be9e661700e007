# SPDX-License-Identifier: Apache-2.0
"""The table for people and the JSON for everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure

SCHEMA = "pyproxy.bench/1"
HEADINGS = ("figure", "value", "95 % interval", "n", "target", "met")
DECIMALS = {"ratio": 3, "ns": 1, "us": 2, "ms": 2, "s": 3, "MB": 1, "MB/s": 0}


def report_json(
    figures: Sequence[Figure], failures: Mapping[str, str], run: Mapping[str, object]
) -> dict[str, object]:
    """Return the one object of a run; `run` says how and on what, `failures` what is missing."""
    return {
        "schema": SCHEMA,
        **run,
        "figures": [_record(figure) for figure in figures],
        "failures": [{"measure": name, "reason": reason} for name, reason in failures.items()],
    }


def _record(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "value": figure.estimate.value,
        "interval95": [figure.estimate.low, figure.estimate.high],
        "target": str(figure.target) if figure.target else None,
        "met": figure.met,
        "certain": figure.certain,
        "samples": list(figure.samples),
        "details": dict(figure.details),
    }


def write_json(folder: Path, name: str, report: Mapping[str, object]) -> Path:
    """Write the report into a folder, which is made, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(report) + "\n", encoding="utf-8")
    return path


def row(figure: Figure) -> tuple[str, ...]:
    """Return a figure's line of the table, as HEADINGS has it."""
    low, high = (_number(end, figure.unit) for end in (figure.estimate.low, figure.estimate.high))
    return (
        figure.name,
        f"{_number(figure.estimate.value, figure.unit)} {figure.unit}",
        f"{low} to {high}",
        str(len(figure.samples)),
        str(figure.target or ""),
        _verdict(figure),
    )


def _number(value: float | None, unit: str) -> str:
    # No bound: so few samples say nothing of that side.
    return "?" if value is None else f"{value:.{DECIMALS[unit]}f}"


def _verdict(figure: Figure) -> str:
    if figure.met is None:
        return ""
    word = "yes" if figure.met else "NO"
    return word if figure.certain else f"{word}, uncertain"


def print_table(figures: Sequence[Figure], out: TextIO) -> None:
    """Print all figures: drawn on a terminal, in aligned columns elsewhere."""
    rows = [row(figure) for figure in figures]
    if out.isatty():
        _print_drawn(rows, out)
    else:
        _print_plain(rows, out)


def _print_drawn(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    table = Table(*HEADINGS)
    for cells in rows:
        table.add_row(*cells, style="red" if cells[-1].startswith("NO") else None)
    Console(file=out).print(table)


def _print_plain(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    lines = [HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), file=out)
