# SPDX-License-Identifier: Apache-2.0
"""What NodePorts are to reach, and the names of the figures that say so."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest

from tests.bench import nodeports
from tests.bench.bench import QUICK, Bench
from tests.bench.catalogue import selected
from tests.bench.comparison import Case, Comparison
from tests.bench.figures import Figure
from tests.bench.load import Window
from tests.bench.report import print_table, report_json

RATES = {"none": 100.0, "ours": 98.0, "nftables": 90.0, "iptables": 80.0}
LATENCY = dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 1)


def _figures(case: Case, rates: Mapping[str, float] = RATES) -> list[Figure]:
    """Return the figures of a case whose rounds were all the same."""
    bench = Bench(tools={}, extent=QUICK, client_cpu=0, server_cpu=0, progress=lambda _line: None)
    windows = {
        name: Window(operations=1, rate=rate, latency_ns=LATENCY) for name, rate in rates.items()
    }
    return list(nodeports.figures_of(bench, Comparison(case, [windows] * QUICK.quads), ["eth0"]))


def _case(measure: str, name: str) -> Case:
    (case,) = (case for case in nodeports.CASES if (case.measure, case.name) == (measure, name))
    return case


def test_each_measure_can_be_asked_for() -> None:
    """A measure of NodePorts is one of the data path's, and has both families."""
    for measure in nodeports.MEASURES:
        assert selected("datapath", [measure]) == [measure]
        cases = [case for case in nodeports.CASES if case.measure == measure]
        assert [case.family for case in cases] == [4, 6] * (len(cases) // 2)


@pytest.mark.parametrize(
    ("measure", "name", "by_none", "by_nftables"),
    [
        ("nodeport-rate-local", "tcp4", ">= 0.95", ">= 1"),
        ("nodeport-rate-local", "tcp6", ">= 0.95", ">= 1"),
        ("nodeport-rate-remote", "tcp4", ">= 0.85", ">= 1"),
        ("nodeport-rate-remote", "tcp6", ">= 0.85", ">= 1"),
        ("nodeport-packets", "udp4", None, ">= 1.15"),
        ("nodeport-packets", "udp6", None, ">= 1.15"),
        ("nodeport-fast-remote", "kept-tcp4", ">= 1", ">= 1"),
        ("nodeport-fast-packets", "udp6", None, ">= 1.5"),
    ],
)
def test_targets(measure: str, name: str, by_none: str | None, by_nftables: str) -> None:
    """A rate counts by none and by nftables' of the same rounds; by iptables' it is told."""
    targets = nodeports.targets(_case(measure, name))
    shown = {state: str(target) if target else None for state, target in targets.items()}
    assert shown == {"none": by_none, "nftables": by_nftables, "iptables": None}


def test_a_figure_for_each_state_that_ours_is_divided_by() -> None:
    """Each figure has its ratio, and its rounds, under the name that the README has."""
    figures = _figures(_case("nodeport-rate-local", "tcp4"))
    start = "datapath/nodeport-rate-local/tcp4/10/by-"
    found = {figure.name.removeprefix(start): figure.estimate.value for figure in figures}
    assert found == {"none": 0.98, "nftables": 98 / 90, "iptables": 98 / 80}
    assert {len(figure.samples) for figure in figures} == {QUICK.quads}
    assert [figure.met for figure in figures] == [True, True, None]


def test_a_rate_below_nftables_misses() -> None:
    """What --check counts: a hundredth below is below."""
    figures = _figures(_case("nodeport-rate-remote", "tcp6"), RATES | {"ours": 89.0})
    assert [figure.met for figure in figures] == [True, False, None]


def test_table_and_json_have_the_names() -> None:
    """A reader finds each figure by its name, and both states' windows beside it."""
    figures = _figures(_case("nodeport-packets", "udp4"))
    out = io.StringIO()
    print_table(figures, out)
    record = report_json(figures, {}, {})["figures"]
    assert isinstance(record, list)
    for figure, each in zip(figures, record, strict=True):
        assert figure.name in out.getvalue()
        assert each["name"] == figure.name
        assert each["details"]["mode"] == "udp-burst"
        assert {"ours", figure.name.rpartition("by-")[2]} <= set(each["details"])
