# SPDX-License-Identifier: Apache-2.0
"""What scripts/bench reads of the kernel's statistics is of the programs and packets it says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pyproxy.model import Family
from tests.bench.bench import QUICK, Bench
from tests.bench.build import build_tools
from tests.bench.runstats import runs_of, statistics
from tests.bench.traffic import (
    LOADS,
    SIDE_OF,
    Lab,
    empty_switch,
    rounds_of,
    states_of,
    uplink_switch,
)
from tests.datapath import packets, prog_run
from tests.lab import foreign
from tests.lab.cluster import Cluster

SERVICES = 4
SETTING = Path("/proc/sys/kernel/bpf_stats_enabled")
CPU = min(os.sched_getaffinity(0))


def test_statistics_count_runs() -> None:
    """Each run of a program is counted and takes some time; the node's setting stays."""
    frame = packets.ether(packets.arp(), packets.ETH_P_ARP)
    setting = SETTING.read_text()
    program = foreign.passing_on()
    with statistics():
        before = runs_of(program)
        for _ in range(100):
            prog_run.run(program, frame)
        after = runs_of(program)
    os.close(program)
    assert after.times - before.times == 100
    assert 0 < after.mean_since(before) < 1e6
    assert SETTING.read_text() == setting


def test_only_the_uplink_has_programs() -> None:
    """Those of other devices would see other kinds of packets by the same descriptors."""
    with Cluster(nodes=2, pods_per_node=1) as cluster:
        lab = Lab(cluster)
        with empty_switch(lab.node) as empty, uplink_switch(lab, SERVICES) as ours:
            assert len(ours.names) == len(SIDE_OF)
            assert ours.devices == empty.devices


def test_traffic_is_seen_by_the_uplink_alone(tmp_path: Path) -> None:
    """An agent's programs on the uplink make a NodePort answer; each kind of packet is timed.

    What begins a connection takes longer than one that is established, and that longer than what
    is not ours: else they were not what they are said to be.
    """
    extent = replace(QUICK, triples=4, loads=1, window_ms=5)
    bench = Bench(build_tools(tmp_path), extent, CPU, CPU, lambda _line: None)
    with Cluster(nodes=2, pods_per_node=1) as cluster:
        lab = Lab(cluster)
        with states_of(lab, [SERVICES]) as states, statistics():
            taken = rounds_of(bench, lab, Family.IPV4, states)
    assert [*taken] == [kind for load in LOADS for kind in load.kinds]
    shortest = {str(kind): min(times[SERVICES] for times in each) for kind, each in taken.items()}
    assert shortest["ingress-not-ours"] < shortest["ingress-request"] < shortest["ingress-begin"]
    assert shortest["egress-not-ours"] < shortest["egress-reply"] < shortest["egress-begin"]
    assert all(times["empty"] > 0 for each in taken.values() for times in each)
