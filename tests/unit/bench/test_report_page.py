# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench report`: runs side by side on a page that needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pyproxy.errors import ConfigError
from tests.bench.figures import Figure, at_least, at_most, median_figure
from tests.bench.report import report_json, write_json
from tests.bench.reporting import main
from tests.bench.runs import read_runs

HEAD = {
    "command": ["scripts/bench", "--only", "<x>"],
    "started": "2026-01-01T00:00:00+00:00",
    "version": "abc123",
    "machine": {"kernel": "6.1", "cpus": 2, "mitigations": {"a": "none"}},
    "extent": {"pairs": 21},
    "seconds": 12.0,
}


def figures(factor: float = 1.0) -> list[Figure]:
    """Return what a run measured: the first one differs by a factor."""
    noise = [1 + n % 7 / 100 for n in range(40)]
    return [
        median_figure("datapath/rate/tcp4", "ratio", [factor * n for n in noise], at_least(0.97)),
        median_figure("datapath/rate/tcp6", "ratio", noise),
        median_figure("control-plane/start/a", "s", noise, at_most(0.5)),
    ]


def written(folder: Path, name: str, taken: list[Figure], **changed: Any) -> Path:
    """Write a run as scripts/bench does."""
    failures = changed.pop("failures", {})
    return write_json(folder, f"{name}.json", report_json(taken, failures, {**HEAD, **changed}))


class Page(HTMLParser):
    """What a browser would see: rows of tables, pictures, and everything that refers elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.refers: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note rows and references."""
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True
        self.refers += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a cell."""
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        """Note words, and whose cell they are in."""
        self.words += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, name: str, verdict: str) -> list[str]:
        """Return the row that begins and ends so."""
        return next(row for row in self.rows if row and row[0] == name and verdict in row[-1])


def report(tmp_path: Path, *runs: Path) -> Page:
    """Return the page of these runs."""
    out = tmp_path / "report.html"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return Page(out.read_text("utf-8"))


def test_a_true_difference_is_told_from_none(tmp_path: Path) -> None:
    """The one figure that fell by a tenth is lower, the others are within the noise."""
    runs = written(tmp_path, "before", figures()), written(tmp_path, "after", figures(0.9))
    page = report(tmp_path, *runs)
    assert "1 of 3 figures differ by more than the noise" in page.words
    assert page.row("datapath/rate/tcp4", "lower")[3] == "0.900"
    assert page.row("datapath/rate/tcp6", "within the noise")
    assert page.row("control-plane/start/a", "within the noise")


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    """Two runs with the same samples are no news; one alone is compared with nothing."""
    runs = written(tmp_path, "one", figures()), written(tmp_path, "two", figures())
    assert "0 of 3 figures differ" in report(tmp_path, *runs).words
    assert "differ by more" not in report(tmp_path, runs[0]).words


def test_targets_are_met_or_missed_by_each_run(tmp_path: Path) -> None:
    """A row a target, a column a run; what has no target is not among them."""
    runs = written(tmp_path, "before", figures()), written(tmp_path, "after", figures(0.9))
    page = report(tmp_path, *runs)
    row = page.row("datapath/rate/tcp4", "missed")
    assert [cell.split(": ")[-1] for cell in row[1:]] == ["met", "missed"]
    assert not any("datapath/rate/tcp6" in row and ">=" in "".join(row) for row in page.rows)


def test_what_a_run_lacks_is_not_measured(tmp_path: Path) -> None:
    """A figure of the other run alone, and a measure that failed, are said to be missing."""
    before = written(tmp_path, "before", figures())
    after = written(tmp_path, "after", figures()[:1], failures={"start-up": "no gcc"})
    page = report(tmp_path, before, after)
    assert page.row("datapath/rate/tcp6", "not measured")
    assert page.row("control-plane/start/a", "not measured")
    assert page.row("after", "no gcc") == ["after", "start-up", "no gcc"]
    assert report(tmp_path, written(tmp_path, "nothing", [])).words


def test_machines_that_differ_are_warned_of(tmp_path: Path) -> None:
    """Kernel, source, command and how much was measured are told; what differs is named."""
    before = written(tmp_path, "before", figures())
    machine = {"kernel": "6.18", "cpus": 2, "mitigations": {"a": "none"}}
    page = report(tmp_path, before, written(tmp_path, "after", figures(), machine=machine))
    assert ["kernel", "6.1", "6.18"] in page.rows
    assert "differ by more than what was measured (kernel)" in page.words
    assert ["after", "abc123"] in [row[:2] for row in page.rows]
    assert "scripts/bench --only <x>" in page.words
    assert "differ by more than what" not in report(tmp_path, before).words


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """Pictures are in it; nothing is loaded from anywhere, nor by a picture."""
    page = report(tmp_path, written(tmp_path, "before", figures()))
    assert len(page.refers) == 2
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "a"})
    for reference in page.refers:
        kind, _, data = reference.partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawn = base64.b64decode(data).decode()
        assert "<svg" in drawn
        assert all(to.startswith("#") for to in re.findall(r'href="([^"]*)"', drawn))
        assert "url(http" not in drawn


def test_the_same_runs_make_the_same_page(tmp_path: Path) -> None:
    """Neither time nor chance is in it."""
    run, out = written(tmp_path, "before", figures()), tmp_path / "report.html"
    report(tmp_path, run)
    first = out.read_bytes()
    report(tmp_path, run)
    assert out.read_bytes() == first


def test_names_are_text_and_never_markup_nor_formulas(tmp_path: Path) -> None:
    """A name with tags, quotes and dollars is shown as it is, on the page and in pictures."""
    name = 'g/<script>alert("1")</script>/$x_$&'
    taken = [median_figure(name, "$^$", [1.0, 2.0])]
    page = report(tmp_path, written(tmp_path, "<b>run", taken, failures={"<i>": "<u>&"}))
    assert page.tags.isdisjoint({"script", "b", "i", "u"})
    assert "<b>run" in page.words
    assert page.row("<b>run", "<u>&")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: "{", "is no run of scripts/bench"),
        (lambda _: "[]", "is no run of scripts/bench"),
        (lambda run: json.dumps({**run, "schema": "pyproxy.bench/2"}), "reads pyproxy.bench/1"),
        (lambda run: json.dumps({**run, "schema": "pyproxy.status/1"}), "pyproxy.status/1"),
        (lambda run: json.dumps({**run, "figures": [{"name": "x"}]}), "figures[0]"),
        (lambda run: json.dumps({**run, "figures": run["figures"] * 2}), "two figures of one name"),
        (lambda run: json.dumps(run).replace("[1.0,", "[NaN,"), "is no run"),
        (lambda run: json.dumps({k: v for k, v in run.items() if k != "machine"}), "machine"),
        (
            lambda run: json.dumps({**run, "figures": [{**run["figures"][0], "samples": []}]}),
            "no samples",
        ),
    ],
)
def test_what_is_no_run_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Any], str],
    sentence: str,
) -> None:
    """A broken file, one of another schema or with parts missing: status 2, the file, the fault."""
    path = written(tmp_path, "broken", figures())
    path.write_text(change(json.loads(path.read_text())))
    assert main([str(path), "--out", str(tmp_path / "report.html")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert str(path) in said
    assert not (tmp_path / "report.html").exists()


def test_files_that_are_not_there_and_places_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is wrong usage, the second a failure; both name the file and what to do."""
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read (No such file or directory)" in capsys.readouterr().err
    run = written(tmp_path, "run", figures())
    assert main([str(run), "--out", str(tmp_path / "no" / "r.html")]) == 1
    assert "--out" in capsys.readouterr().err


def test_runs_are_called_by_their_files(tmp_path: Path) -> None:
    """By the names alone where they tell them apart, else by the paths; none comes twice."""
    one, other = (written(tmp_path / name, "bench", figures()) for name in ("a", "b"))
    third = written(tmp_path, "third", figures())
    assert [run.label for run in read_runs([one, other, third])] == [str(one), str(other), "third"]
    with pytest.raises(ConfigError, match="given twice"):
        read_runs([one, one])


@pytest.mark.parametrize("floor", ["-1", "100", "much"])
def test_a_floor_is_a_percentage(floor: str) -> None:
    """Anything else is wrong usage."""
    with pytest.raises(SystemExit) as ended:
        main(["x.json", "--floor", floor])
    assert ended.value.code == 2
