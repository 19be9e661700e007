# SPDX-License-Identifier: Apache-2.0
"""Latencies, first packets and CPU time become figures by state, and ratios by round."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.bench import FULL, QUICK
from tests.bench.comparison import Comparison
from tests.bench.cputime import CpuTime, usage_us
from tests.bench.load import Window
from tests.bench.noise import quantile_of
from tests.bench.peers import CPU, LATENCY, REQUESTS, WALKED, request_figures, throughput


def window(latency_us: int, operations: int = 100) -> Window:
    """Return a window of requests that took so long, and twice as much CPU time."""
    quantiles = {"p50": 1, "p90": 2, "p99": 3, "p999": 5}
    latency_ns = {name: factor * latency_us * 1000 for name, factor in quantiles.items()}
    return Window(operations, 1.0, latency_ns, cpu_ns=latency_us * operations * 2000)


ROUNDS = [
    {"none": window(10), "sockets": window(11), "packets": window(20), "nftables": window(25)},
    {"none": window(100), "sockets": window(100), "packets": window(300), "nftables": window(200)},
    {"none": window(10), "sockets": window(12), "packets": window(30), "nftables": window(15)},
]


def test_each_state_has_its_quantiles_and_ratios_are_of_one_round() -> None:
    """A round in which the machine was slow for all is one round, and no slow state."""
    figures = {
        figure.name.removeprefix("datapath/"): figure
        for figure in request_figures(Comparison(REQUESTS[0], ROUNDS), [LATENCY])
    }
    assert figures["latency/p50/tcp4/packets"].samples == (20, 300, 30)
    assert figures["latency/p999/tcp4/none"].samples == (50, 500, 50)
    assert figures["latency/p99/tcp4/packets-by-nftables"].samples == pytest.approx((0.8, 1.5, 2.0))
    assert not any("iptables" in name for name in figures)
    assert {figure.unit for figure in figures.values()} == {"us", "ratio"}
    assert all(quantile_of(name) == 0.5 for name in figures)


def test_cpu_time_is_shared_out_among_requests() -> None:
    """Longer windows have more requests, which take no more each."""
    rounds = [{"none": window(10, operations)} for operations in (100, 700)]
    (figure,) = request_figures(Comparison(REQUESTS[0], rounds), [CPU])
    assert figure.name == "datapath/cpu-request/tcp4/none"
    assert figure.samples == (20, 20)


def test_first_packets_meet_few_and_many_services() -> None:
    """At one, a thousand and ten thousand services, and with iptables at more than a few."""
    assert FULL.crowds == (1, 1_000, 10_000)
    assert set(QUICK.crowds) < set(FULL.crowds)
    assert WALKED in QUICK.crowds


def test_cpu_time_is_of_cgroups_and_soft_interrupts(tmp_path: Path) -> None:
    """One cgroup given twice counts once; a process that has ended and other threads do not."""
    for name, used in (("a", 7), ("b", 30)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpu.stat").write_text(f"usage_usec {used}\nuser_usec 1\n")
    for pid, name in ((12, "ksoftirqd/0"), (19, "ksoftirqd/1"), (20, "kworker/0")):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "comm").write_text(f"{name}\n")
        (tmp_path / "proc" / str(pid) / "schedstat").write_text("500 9 9\n")
    (tmp_path / "proc" / "99").mkdir()
    cgroups = [tmp_path / "a", tmp_path / "b", tmp_path / "a"]
    assert CpuTime(cgroups, tmp_path / "proc").ns() == 37_000 + 2 * 500


def test_an_account_is_read_by_name() -> None:
    """Where its lines are does not matter."""
    assert usage_us("user_usec 1\nsystem_usec 2\nusage_usec 3\nnr_periods 0\n") == 3


def test_throughput_counts_bytes() -> None:
    """Two bulks a second of a stream are half a megabyte; what is sent once is 32 datagrams."""
    two = Window(1, 2.0, {})
    assert throughput("tcp")(two) == pytest.approx(0.524288)
    assert throughput("udp")(two) == pytest.approx(0.0896)
