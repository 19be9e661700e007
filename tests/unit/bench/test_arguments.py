# SPDX-License-Identifier: Apache-2.0
"""The command line picks what it names, and says so when there is no such thing."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.errors import ConfigError, PyproxyError
from tests.bench import objects, packets, rates
from tests.bench.__main__ import exit_status, main, measure, parse
from tests.bench.bench import FULL, QUICK, Bench, placement
from tests.bench.build import cache_dir
from tests.bench.catalogue import CONTROL_PLANE, DATAPATH, NAMES, QUICK_NAMES, parts, selected
from tests.bench.figures import Figure, at_most, median_figure
from tests.bench.rounds import orders_of


def test_groups_are_their_measures() -> None:
    """A group picks all that is in it, and all picks everything."""
    assert selected("datapath", []) == list(DATAPATH)
    assert selected("control-plane", []) == list(CONTROL_PLANE)
    assert selected("all", []) == list(NAMES)


def test_only_picks_by_name() -> None:
    """Named measures come in the catalogue's order, once each."""
    assert selected("all", ["start-up", "udp-rate", "start-up"]) == ["udp-rate", "start-up"]


def test_quick_takes_a_few_measures_unless_told_which() -> None:
    """Some of each group; what is named is taken, whatever it takes."""
    assert selected("all", [], quick=True) == [name for name in NAMES if name in QUICK_NAMES]
    assert selected("datapath", [], quick=True) == ["latency", "cpu-request"]
    assert selected("all", ["udp-rate"], quick=True) == ["udp-rate"]
    assert set(QUICK_NAMES) < set(NAMES)


@pytest.mark.parametrize(("group", "name"), [("all", "nonsense"), ("datapath", "start-up")])
def test_an_unknown_name_ends_with_status_2_and_the_list(
    group: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that the group doesn't have is wrong usage; the right ones are in the sentence."""
    with pytest.raises(ConfigError):
        selected(group, [name])
    assert main([group, "--only", name]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "connection-rate" in said


def test_wrong_flags_are_wrong_usage() -> None:
    """Argparse's own status for wrong usage is ours."""
    with pytest.raises(SystemExit) as ended:
        parse(["--fast"])
    assert ended.value.code == 2


def test_measures_of_the_datapath_share_one_part() -> None:
    """Measures of one path run on the same agents; a path that fails stops no other."""
    names = ["connection-rate", "udp-rate", "connection-rate-packet", "control-packet", "start-up"]
    assert list(parts(names)) == [
        "connection-rate, udp-rate",
        "connection-rate-packet, control-packet",
        "start-up",
    ]


def test_every_ratio_has_at_least_fifteen_rounds() -> None:
    """Neither --quick nor a full run falls below what a ratio has to be made of."""
    for extent in (QUICK, FULL):
        assert min(extent.pairs, extent.triples, extent.quads, extent.fives) >= 15


def test_each_order_of_states_comes_equally_often() -> None:
    """What one state leaves to the next weighs on all three alike, or on all four."""
    for extent in (QUICK, FULL):
        assert extent.triples % (math.factorial(3) * extent.loads) == 0
        assert extent.quads % math.factorial(4) == 0
        assert extent.fives % len(orders_of(5)) == 0


def test_every_figure_of_the_packet_path_has_its_target() -> None:
    """Connections, kept connections and traffic that is no service's: what was promised."""
    bounds = {
        (case.measure, case.name): case.target.bound
        for case in (*packets.CASES, *rates.CASES)
        if case.target
    }
    for family in ("tcp4", "tcp6"):
        assert bounds["connection-rate-packet", family] == 0.92
        assert bounds["request-rate-packet", family] == 0.97
    untouched = [case for case in rates.CASES if case.direct]
    assert {bounds[case.measure, case.name] for case in untouched} == {0.98}
    assert {case.mode for case in untouched} == {"tcp-connect", "udp-connect", "tcp-request"}


@pytest.mark.parametrize(
    ("allowed", "apart", "placed"),
    [
        ({0, 1}, False, (1, 1)),
        ({0, 1}, True, (1, 0)),
        ({5}, True, (5, 5)),
        ({2, 9, 4}, True, (9, 4)),
    ],
)
def test_placement(allowed: set[int], apart: bool, placed: tuple[int, int]) -> None:
    """Client and server share the last CPU, unless asked to be apart where that is possible."""
    assert placement(allowed, apart=apart) == placed


def _bench() -> Bench:
    return Bench(tools={}, extent=QUICK, client_cpu=0, server_cpu=0, progress=lambda _line: None)


def _failing(error: Exception) -> Callable[[Bench], Iterator[Figure]]:
    def part(_bench: Bench) -> Iterator[Figure]:
        yield median_figure("a/b/first", "ms", [1.0])
        raise error

    return part


@pytest.mark.parametrize("error", [PyproxyError("broken"), TimeoutError("late"), OSError("no")])
def test_a_measure_that_fails_stops_no_other(error: Exception) -> None:
    """What was measured before and after a failure is reported, with the failure beside it."""

    def good(_bench: Bench) -> Iterator[Figure]:
        yield median_figure("a/c/second", "ms", [2.0])

    figures, failures = measure(_bench(), {"bad": _failing(error), "good": good})
    assert [figure.name for figure in figures] == ["a/b/first", "a/c/second"]
    assert failures == {"bad": str(error)}


def test_exit_status() -> None:
    """A missed target fails a run with --check only; what was not measured always does."""
    missed = [median_figure("a/b/c", "ms", [2.0], at_most(1))]
    assert exit_status(missed, {}, check=False) == 0
    assert exit_status(missed, {}, check=True) == 1
    assert exit_status([], {"start-up": "no gcc"}, check=False) == 1


def test_compiled_tools_are_kept_outside_of_the_checkout() -> None:
    """The cache follows XDG_CACHE_HOME, and HOME where that is not set."""
    assert cache_dir({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/pyproxy/bench")
    assert cache_dir({"HOME": "/h"}) == Path("/h/.cache/pyproxy/bench")


def test_no_two_services_of_the_crowd_share_an_address() -> None:
    """Five thousand services have addresses of their own, inside the service CIDRs."""
    members = [objects.crowd_member(number)[0] for number in range(5000)]
    cluster_ips = [address for member in members for address in _cluster_ips(member)]
    assert len(set(cluster_ips)) == 10000
    cidrs = [ipaddress.ip_network("10.96.0.0/16"), ipaddress.ip_network("fd00:10:96::/112")]
    assert all(any(ipaddress.ip_address(ip) in cidr for cidr in cidrs) for ip in cluster_ips)


def _cluster_ips(member: objects.Object) -> list[str]:
    return list(member["spec"]["clusterIPs"])


def test_a_whole_service_has_ten_endpoints_of_its_own() -> None:
    """Ten thousand services and slices of ten share no address; controllers' fields are there."""
    members = [objects.whole_member(number) for number in range(10_000)]
    assert len({member[0]["spec"]["clusterIP"] for member in members}) == 10_000
    endpoints = [each for member in members for each in member[1]["endpoints"]]
    assert len({each["addresses"][0] for each in endpoints}) == 100_000
    assert all("targetRef" in each for each in endpoints)


def test_objects_are_replaced_by_rename(tmp_path: Path) -> None:
    """A reader of the directory sees a whole file; what is being written has a dot name."""
    path = tmp_path / "slice.json"
    staged = objects.stage(path, [])
    assert staged.name.startswith(".")
    objects.write(path, [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["slice.json"]
