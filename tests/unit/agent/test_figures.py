# SPDX-License-Identifier: Apache-2.0
"""What the kernel and the agent say of themselves, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.agent.figures import COUNTED, SHARE, Figures, Spared, of_agent
from pyproxy.agent.problems import Problem
from pyproxy.agent.report import State
from pyproxy.kernel.inspect import COUNTERS, MapStatus
from pyproxy.tables import SocketTranslation
from tests.unit.agent.test_kube_proxy_metrics import run_config

STATE = State(
    pid=1,
    version="1",
    node="n1",
    cgroup_root="/",
    devices=[],
    synced=True,
    last_sync=1.0,
    last_sync_seconds=0.1,
    services=3,
    endpoints=9,
    refused=1,
    malformed=2,
    problems=[Problem("malformed", "a", "b"), Problem("malformed", "c", "d")],
)


def test_every_counter_of_the_programs_is_exported_once() -> None:
    """A new one needs a place; two in one place would hide each other."""
    assert list(COUNTED) != []
    assert set(COUNTED) == set(COUNTERS)
    assert len(set(COUNTED.values())) == len(COUNTED)
    assert all(len(labels) + 1 == len(spec.labels) for spec, labels in COUNTED.values())


def test_a_costly_look_is_made_less_often() -> None:
    """It may take a hundredth of a CPU, however often somebody scrapes."""
    now, cpu, looks = 0.0, 0.0, 0

    def look() -> Iterator[int]:
        nonlocal cpu, looks
        cpu += 0.25
        looks += 1
        yield looks

    spared = Spared(look, lambda: now, lambda: cpu)
    assert [spared(), spared()] == [(1,), (1,)]
    now = 0.25 / SHARE
    assert [spared(), spared()] == [(2,), (2,)]


def test_maps_are_told_apart_by_name_and_family() -> None:
    """Those of both families have an empty one, which is none to Prometheus."""
    statuses = [MapStatus("IPv4 frontends", 3, 10), MapStatus("connected", 4, 20)]
    used, most = Figures(lambda: statuses).maps()
    assert used.values == {("frontends", "IPv4"): 3, ("connected", ""): 4}
    assert most.values == {("frontends", "IPv4"): 10, ("connected", ""): 20}


def test_before_anything_is_loaded_there_are_no_figures() -> None:
    """And a scrape does not fail for that."""
    figures = Figures(list)
    assert [*figures.counters(), *figures.maps()] == []
    config = run_config(proxy_mode="nftables", socket_translation=SocketTranslation.HOST)
    info, synced = of_agent(config, None)
    assert [labels[1:] for labels in info.values] == [("nftables", "host")]
    assert synced.values == {(): False}


def test_the_agents_report_is_exported() -> None:
    """With its problems by code."""
    found = {each.spec.name: dict(each.values) for each in of_agent(run_config(), STATE)}
    assert found["pyproxy_synced"] == {(): True}
    assert found["pyproxy_services"] == {(): 3}
    assert found["pyproxy_endpoints"] == {(): 9}
    assert found["pyproxy_refused_service_ports"] == {(): 1}
    assert found["pyproxy_malformed_objects"] == {(): 2}
    assert found["pyproxy_problems"] == {("malformed",): 2}
