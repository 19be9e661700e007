# SPDX-License-Identifier: Apache-2.0
"""Pictures of figures: a point with its interval for each run, drawn by matplotlib."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from tests.bench.runs import Record, Run

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
# The same files make the same picture, with no date and no random names in it.
SAME = {"svg.hashsalt": "pyproxy", "svg.fonttype": "path"}
LINE_INCHES, FRAME_INCHES, WIDTH_INCHES = 0.18, 1.1, 9.0


def picture(runs: Sequence[Run], names: Sequence[str], unit: str) -> str:
    """Return a data URI of a picture: figures of one unit from top to bottom, runs by colour."""
    with mpl.rc_context(SAME):
        height = FRAME_INCHES + LINE_INCHES * len(names) * (len(runs) + 1)
        canvas = Canvas(figsize=(WIDTH_INCHES, height), layout="constrained")
        axes = canvas.add_subplot()
        for number, run in enumerate(runs):
            lines = {
                line + number / (len(runs) + 1): run.figures.get(name)
                for line, name in enumerate(names)
            }
            _draw_run(axes, lines, unit, colour_of(number))
        _draw_targets(axes, _targets(runs, names), len(runs))
        _name_lines(axes, [case_of(name) for name in names], unit, len(runs))
        written = io.BytesIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()


def case_of(name: str) -> str:
    """Return a figure's name without the measure, which the heading has."""
    return "/".join(name.split("/")[2:]) or name


def colour_of(number: int) -> str:
    """Return the colour of a run by its number, here and on the page."""
    return COLOURS[number % len(COLOURS)]


def _draw_run(axes: Any, lines: Mapping[float, Record | None], unit: str, colour: str) -> None:
    found = [(line, each) for line, each in lines.items() if each and each.unit == unit]
    for line, figure in found:
        axes.hlines(line, *_ends(figure), color=colour, linewidth=2)
    axes.plot(
        [figure.value for _, figure in found], [line for line, _ in found], "o",
        color=colour, markersize=4,
    )  # fmt: skip


def _ends(figure: Record) -> tuple[float, float]:
    """Return the ends of an interval; what no sample bounds ends at the outermost one."""
    low, high = figure.interval95
    return (
        min(figure.samples) if low is None else low,
        max(figure.samples) if high is None else high,
    )


def _targets(runs: Sequence[Run], names: Sequence[str]) -> Mapping[int, float]:
    """Return where the targets are, by line: those of the first run that has one."""
    found: dict[int, float] = {}
    for line, name in enumerate(names):
        for run in runs:
            figure = run.figures.get(name)
            if figure and figure.target:
                found.setdefault(line, float(figure.target.split()[-1]))
    return found


def _draw_targets(axes: Any, targets: Mapping[int, float], runs: int) -> None:
    for line, bound in targets.items():
        bottom, top = line - 0.2, line + (runs - 0.5) / (runs + 1)
        axes.vlines(bound, bottom, top, color="black", linestyle="dotted")


def _name_lines(axes: Any, lines: Sequence[str], unit: str, runs: int) -> None:
    middle = (runs - 1) / 2 / (runs + 1)
    axes.set_yticks([line + middle for line in range(len(lines))], lines)
    # A name with two dollars in it is no formula.
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.xaxis.label.set_parse_math(False)
    axes.set_ylim(len(lines) - 0.2, -0.4)
    axes.set_xlabel(unit)
    axes.grid(visible=True, axis="x", alpha=0.3)
