# SPDX-License-Identifier: Apache-2.0
"""What a packet may take, and the names of the figures that say so."""

from __future__ import annotations

import io

import pytest

from pyproxy.model import Family
from tests.bench import nanoseconds, traffic
from tests.bench.catalogue import selected
from tests.bench.conversations import EGRESS, INGRESS, KINDS, Kind
from tests.bench.figures import Figure
from tests.bench.report import print_table, report_json

ROUND: dict[str | int, float] = {"empty": 10.0, "rewound": 50.0, 10: 140.0, 10_000: 150.0}
KIND = Kind(INGRESS, "request")


def _figures(kind: Kind = KIND, many: float = 150.0) -> dict[str, Figure]:
    """Return the figures of a kind whose rounds were all the same."""
    figures = nanoseconds.figures_of(
        nanoseconds.MEASURE, Family.IPV4, {kind: [{**ROUND, 10_000: many}] * 20}
    )
    return {figure.name: figure for figure in figures}


def test_it_can_be_asked_for() -> None:
    """The measure is one of the data path's."""
    assert selected("datapath", [nanoseconds.MEASURE]) == [nanoseconds.MEASURE]


def test_what_rewinding_takes_is_left_out() -> None:
    """A program takes what an empty one does, and what it adds to that behind the rewinding."""
    values = {name: figure.estimate.value for name, figure in _figures().items()}
    assert values == {
        "datapath/nanoseconds/empty/ipv4": 10.0,
        "datapath/nanoseconds/ingress-request/ipv4/10": 100.0,
        "datapath/nanoseconds/ingress-request/ipv4/10000": 110.0,
        "datapath/nanoseconds/ingress-request/ipv4/10000-by-10": 1.1,
    }


@pytest.mark.parametrize(
    ("name", "bound"),
    [("not-ours", "<= 140"), ("request", "<= 300"), ("reply", "<= 300"), ("begin", "None")],
)
@pytest.mark.parametrize("side", [INGRESS, EGRESS])
def test_targets(side: str, name: str, bound: str) -> None:
    """Each kind has its own bound, at both sides; what begins a connection counts by growth."""
    assert Kind(side, name) in KINDS
    empty, few, many, growth = _figures(Kind(side, name)).values()
    assert empty.target is None
    assert {str(few.target), str(many.target)} == {bound}
    assert str(growth.target) == "<= 1.1"


def test_what_grows_by_more_than_a_tenth_misses() -> None:
    """Growth is of the program itself: neither of what is empty nor of the rewinding."""
    *_, growth = _figures(many=151.0).values()
    assert growth.met is False


def test_only_what_begins_or_is_not_ours_has_ports_by_turns() -> None:
    """An established connection is one; the end that tells what is not ours is this node's."""
    steps = {str(kind): kind.steps for kind in KINDS}
    assert steps["ingress-request"] == steps["egress-reply"] == (0, 0)
    assert steps["ingress-begin"] == steps["egress-begin"] == (1, 0)
    assert steps["ingress-not-ours"] == steps["egress-not-ours"][::-1] == (0, 256)


def test_table_and_json_have_the_names() -> None:
    """A reader finds each figure by its name, and the rounds as they were measured beside it."""
    figures = list(_figures().values())
    out = io.StringIO()
    print_table(figures, out)
    record = report_json(figures, {}, {})["figures"]
    assert isinstance(record, list)
    assert [each["name"] for each in record] == [figure.name for figure in figures]
    assert all(figure.name in out.getvalue() for figure in figures)
    assert "100.0 ns" in out.getvalue()
    assert record[1]["details"]["rounds"][0] == {str(key): ns for key, ns in ROUND.items()}


def test_traffic_has_the_kinds_that_a_window_can_be_made_of() -> None:
    """Each kind is of one load; replies at ingress never come alone."""
    kinds = [kind for load in traffic.LOADS for kind in load.kinds]
    assert len(set(kinds)) == len(kinds)
    assert set(KINDS) - set(kinds) == {Kind(INGRESS, "reply")}


def test_figures_of_traffic_have_no_rewinding() -> None:
    """What the kernel has counted is taken as it is; growth that is chance is told alone."""
    assert selected("datapath", [traffic.MEASURE]) == [traffic.MEASURE]
    times: dict[str | int, float] = {"empty": 50.0, 10: 90.0, 10_000: 120.0}
    figures = nanoseconds.figures_of(
        traffic.MEASURE, Family.IPV6, {Kind(EGRESS, "not-ours"): [times] * 18}, told=["not-ours"]
    )
    found = {figure.name: (figure.estimate.value, figure.met) for figure in figures}
    name = "datapath/nanoseconds-traffic"
    assert found == {
        f"{name}/empty/ipv6": (50.0, None),
        f"{name}/egress-not-ours/ipv6/10": (90.0, True),
        f"{name}/egress-not-ours/ipv6/10000": (120.0, True),
        f"{name}/egress-not-ours/ipv6/10000-by-10": (120 / 90, None),
    }
