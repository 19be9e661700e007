# SPDX-License-Identifier: Apache-2.0
"""The page of a report: one file that asks nobody for anything.

All that comes from files is escaped; a policy in the page forbids a browser to load anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from tests.bench.noise import Change, Verdict
from tests.bench.pictures import colour_of, picture
from tests.bench.report import DECIMALS
from tests.bench.runs import Record, Run

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .15em .7em; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top } code { white-space: pre-wrap }
.good { background: #dff2df } .bad { background: #f9dcdc } .other { background: #fff3cd }
.quiet { color: #777 } img { max-width: 100% } h2 { margin-top: 2em }
"""
METHOD = """A difference is called higher or lower where the samples differ by the test of Mann and
Whitney, corrected for the number of figures by Holm's method (a chance of 5 % for any false one),
and the whole 95 % interval of the ratio of both medians lies more than {floor:g} % from 1: two runs
of the same programs differ by as much, as they lie elsewhere in memory each time. Of figures that
are another quantile (p99) the interval decides alone, corrected for their number."""
# What says on what a run was taken; the load before is told with the run.
NOT_COMPARED = {"loadavg_before"}
# Which of these are better the lower they are; a target says so for itself.
LESS_IS_BETTER = {"ns", "us", "ms", "s", "MB"}


class Cell(NamedTuple):
    """A table's cell: text, not yet escaped, and a class of STYLE."""

    text: str
    style: str = ""


Compared = Sequence[tuple[Run, Mapping[str, Change]]]


def page(runs: Sequence[Run], compared: Compared, floor: float) -> str:
    """Return the report of runs; `compared` are all but the first, with what has changed."""
    parts = [
        "<h1>pyproxy: measurements</h1>",
        "<h2>Runs</h2>",
        _runs_table(runs),
        _machines(runs),
        *_differences(runs[0], compared, floor),
        "<h2>Targets</h2>",
        _targets(runs),
        *_failures(runs),
        *_pictures(runs),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>pyproxy: measurements</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table; everything in it is escaped here."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = ["".join(_cell(cell) for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _cell(cell: Cell) -> str:
    style = f' class="{cell.style}"' if cell.style else ""
    return f"<td{style}>{escape(cell.text)}</td>"


def _runs_table(runs: Sequence[Run]) -> str:
    headings = ("run", "source", "started", "took", "command", "figures", "load before")
    rows = [
        [
            Cell(run.label),
            Cell(run.version),
            Cell(run.started),
            Cell(f"{run.seconds:.0f} s"),
            Cell(" ".join(run.command)),
            Cell(str(len(run.figures))),
            Cell(_short(run.machine.get("loadavg_before"))),
        ]
        for run in runs
    ]
    return table(headings, rows)


def _machines(runs: Sequence[Run]) -> str:
    """Return what runs were taken on and how much was measured; what differs is marked."""
    facts = [{**run.machine, **{f"extent: {k}": v for k, v in run.extent.items()}} for run in runs]
    names = [n for n in dict.fromkeys(n for each in facts for n in each) if n not in NOT_COMPARED]
    rows, differ = [], []
    for name in names:
        values = [each.get(name) for each in facts]
        alike = all(value == values[0] for value in values)
        differ += [] if alike else [name]
        rows.append([Cell(name), *(Cell(_short(v), "" if alike else "other") for v in values)])
    warning = (
        f'<p class="other">These runs differ by more than what was measured '
        f"({escape(', '.join(differ))}): so may their figures.</p>"
        if differ
        else ""
    )
    title = "<h2>Machines</h2>"
    return title + warning + table(["", *(run.label for run in runs)], rows)


def _short(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_short(each)}" for key, each in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _differences(first: Run, compared: Compared, floor: float) -> Iterator[str]:
    if not compared:
        return
    yield f"<h2>Differences from {escape(first.label)}</h2>"
    yield f"<p>{escape(METHOD.format(floor=floor * 100))}</p>"
    for run, changes in compared:
        larger = sum(each.verdict in (Verdict.HIGHER, Verdict.LOWER) for each in changes.values())
        yield (
            f"<h3>{escape(run.label)}</h3><p>{larger} of {len(changes)} figures differ by more"
            " than the noise.</p>"
        )
        rows = [_difference(first, run, name, change) for name, change in changes.items()]
        headings = ("figure", first.label, run.label, "ratio", "interval", "chance", "")
        yield table(headings, rows)


def _difference(first: Run, other: Run, name: str, change: Change) -> list[Cell]:
    figures = (first.figures.get(name), other.figures.get(name))
    low, high = (change.ratio.low, change.ratio.high) if change.ratio else (None, None)
    return [
        Cell(name),
        *(Cell(value_of(figure)) for figure in figures),
        Cell(f"{change.ratio.value:.3f}" if change.ratio else ""),
        Cell(f"{_bound(low)} to {_bound(high)}" if change.ratio else ""),
        Cell("" if change.chance is None else f"{change.chance:.3g}"),
        Cell(change.verdict.value, _colour(change.verdict, figures[0])),
    ]


def _colour(verdict: Verdict, figure: Record | None) -> str:
    """Return the style of a verdict: whether it is good depends on what was measured."""
    if verdict not in (Verdict.HIGHER, Verdict.LOWER) or figure is None:
        return "quiet"
    if figure.target:
        less = figure.target.startswith("<")
    elif figure.unit == "ratio":
        return "other"
    else:
        less = figure.unit in LESS_IS_BETTER
    return "good" if (verdict is Verdict.LOWER) == less else "bad"


def _bound(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def value_of(figure: Record | None) -> str:
    """Return a figure with its interval, in its unit."""
    if figure is None:
        return "not measured"
    decimals = DECIMALS.get(figure.unit, 3)
    low, high = ("?" if end is None else f"{end:.{decimals}f}" for end in figure.interval95)
    return f"{figure.value:.{decimals}f} {figure.unit} ({low} to {high})"


def _targets(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(n for run in runs for n, figure in run.figures.items() if figure.target)
    rows = [
        [Cell(name), *(_against_target(run.figures.get(name)) for run in runs)] for name in names
    ]
    if not rows:
        return "<p>No figure of these runs has a target.</p>"
    return table(["figure", *(run.label for run in runs)], rows)


def _against_target(figure: Record | None) -> Cell:
    if figure is None:
        return Cell("not measured", "quiet")
    if figure.met is None:
        return Cell(value_of(figure))
    word = "met" if figure.met else "missed"
    sure = "" if figure.certain else ", uncertain"
    text = f"{value_of(figure)} {figure.target}: {word}{sure}"
    return Cell(text, "good" if figure.met else "bad")


def _failures(runs: Sequence[Run]) -> Iterator[str]:
    rows = [
        [Cell(run.label), Cell(each.measure), Cell(each.reason)]
        for run in runs
        for each in run.failures
    ]
    if rows:
        yield "<h2>Not measured</h2>" + table(["run", "measure", "reason"], rows)


def _pictures(runs: Sequence[Run]) -> Iterator[str]:
    yield "<h2>Figures</h2>"
    colours = (
        f'<span style="color: {colour_of(number)}">&#9679; {escape(run.label)}</span>'
        for number, run in enumerate(runs)
    )
    yield f"<p>{' '.join(colours)}; lines are 95 % intervals, dotted ones targets.</p>"
    units = {name: figure.unit for run in runs for name, figure in run.figures.items()}

    def group(name: str) -> tuple[str, str]:
        return "/".join(name.split("/")[:2]), units[name]

    # Sorted: runs need not have the same figures, and yet one picture has all of a measure.
    for (measure, unit), names in groupby(sorted(units, key=group), key=group):
        alt = f"{measure} in {unit}"
        yield (
            f"<h3>{escape(measure)}</h3>"
            f'<img alt="{escape(alt)}" src="{picture(runs, list(names), unit)}">'
        )
