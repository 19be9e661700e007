# SPDX-License-Identifier: Apache-2.0
"""A figure says whether its target was met and how sure that is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.bench.comparison import Case, Comparison
from tests.bench.figures import Figure, Target, at_least, at_most, median_figure, worst_figure
from tests.bench.intervals import Estimate
from tests.bench.load import parse_window
from tests.bench.report import print_table, report_json, write_json
from tests.bench.startup import memory_mb

MET, MISSED, SURE, UNSURE = True, False, True, False


@pytest.mark.parametrize(
    ("target", "estimate", "met", "certain"),
    [
        (at_least(0.97), Estimate(0.99, 0.98, 1.0), MET, SURE),
        (at_least(0.97), Estimate(0.99, 0.95, 1.0), MET, UNSURE),
        (at_least(0.97), Estimate(0.97, 0.97, None), MET, SURE),
        (at_least(0.97), Estimate(0.96, 0.95, 0.965), MISSED, SURE),
        (at_least(0.97), Estimate(0.96, 0.95, 0.98), MISSED, UNSURE),
        (at_least(0.97), Estimate(0.99, None, None), MET, UNSURE),
        (at_most(10), Estimate(8, 7, 9), MET, SURE),
        (at_most(10), Estimate(8, 7, 11), MET, UNSURE),
        (at_most(10), Estimate(8, 7, None), MET, UNSURE),
        (at_most(10), Estimate(12, 11, None), MISSED, SURE),
        (at_most(10), Estimate(12, None, 13), MISSED, UNSURE),
    ],
)
def test_verdict(target: Target, estimate: Estimate, met: bool, certain: bool) -> None:
    """The value decides; it is certain only when the whole interval says the same."""
    figure = Figure("a/b/c", "ratio", estimate, [1.0], target)
    assert (figure.met, figure.certain) == (met, certain)


def test_without_a_target_there_is_no_verdict() -> None:
    """What has no target is neither met nor missed."""
    figure = median_figure("a/b/c", "ms", [1.0, 2.0])
    assert figure.met is None
    assert figure.certain is None


def test_memory_counts_by_its_worst() -> None:
    """One start of several above the limit misses the target."""
    figure = worst_figure("a/b/rss", "MB", [70.0, 81.0, 60.0], at_most(80))
    assert figure.estimate.value == 81.0
    assert figure.met is False


def test_a_ratio_is_of_rates_and_not_of_counts() -> None:
    """A window that ran longer made more operations and is no better for it."""
    latency = '{"min":1,"p50":1,"p90":1,"p99":1,"p999":1,"max":1}'
    longer, shorter = (
        parse_window(f'{{"operations":{count},"ns":{ns},"latency_ns":{latency}}}')
        for count, ns in ((3000, 200_000_000), (1500, 50_000_000))
    )
    assert longer.rate == pytest.approx(15_000)
    case = Case("m", "tcp4", "tcp-connect", 4)
    compared = Comparison(case, [{"ours": longer, "none": shorter}])
    assert compared.ratios("ours", "none") == [pytest.approx(0.5)]
    assert compared.ratios("none", "ours") == [pytest.approx(2.0)]


def test_memory_is_in_megabytes() -> None:
    """/proc says kB and means 1,024 bytes; targets are in 10**6 bytes."""
    status = "Name:\tx\nVmHWM:\t   80000 kB\nVmRSS:\t   70000 kB\nThreads:\t3\n"
    assert memory_mb(status) == {"VmHWM": 81.92, "VmRSS": 71.68}


FIGURES = [
    Figure("datapath/x/tcp4", "ratio", Estimate(0.95, 0.94, 0.96), [0.95], at_least(0.97)),
    Figure("control-plane/y/p99", "ms", Estimate(20.0, 15.0, None), [20.0], at_most(50)),
    Figure("datapath/x/tcp6", "ratio", Estimate(1.0, 0.99, 1.01), [1.0]),
]


def test_the_plain_table_has_a_line_a_figure_with_its_verdict() -> None:
    """Value, interval, target and verdict stand in a line; an open end shows as one."""
    out = io.StringIO()
    print_table(FIGURES, out)
    lines = out.getvalue().splitlines()[1:]
    assert [" ".join(line.split()) for line in lines] == [
        "datapath/x/tcp4 0.950 ratio 0.940 to 0.960 1 >= 0.97 NO",
        "control-plane/y/p99 20.00 ms 15.00 to ? 1 <= 50 yes, uncertain",
        "datapath/x/tcp6 1.000 ratio 0.990 to 1.010 1",
    ]


def test_the_json_has_schema_samples_and_what_failed(tmp_path: Path) -> None:
    """The file is one object that begins with its schema and has all raw samples."""
    report = report_json(FIGURES, {"start-up": "no gcc"}, {"command": ["scripts/bench"]})
    read = json.loads(write_json(tmp_path / "new", "x.json", report).read_text())
    assert next(iter(read.items())) == ("schema", "pyproxy.bench/1")
    assert read["command"] == ["scripts/bench"]
    assert [figure["samples"] for figure in read["figures"]] == [[0.95], [20.0], [1.0]]
    assert [figure["met"] for figure in read["figures"]] == [False, True, None]
    assert read["figures"][1]["interval95"] == [15.0, None]
    assert read["failures"] == [{"measure": "start-up", "reason": "no gcc"}]
