# SPDX-License-Identifier: Apache-2.0
"""What scripts/bench times packet by packet is what it says: translated, or not ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from pyproxy.model import Family
from tests.bench import nanoseconds
from tests.bench.conversations import KINDS, Uplink, ends_of
from tests.bench.nanoseconds import place_on, timed, uplink_with
from tests.bench.rewind import Rewind
from tests.datapath import packets, prog_run
from tests.datapath.ends import backend, client
from tests.datapath.packets import ACK, ETH_P, IP_BYTES, End
from tests.lab import foreign
from tests.lab.cluster import Cluster

SERVICES = 4


@pytest.fixture
def empty() -> Iterator[int]:
    """A program that does nothing."""
    fd = foreign.passing_on()
    yield fd
    os.close(fd)


@pytest.mark.parametrize("steps", [(0, 0), (1, 0), (0, 256)])
def test_each_run_finds_the_packet_as_it_was(
    empty: int, family: Family, steps: tuple[int, int]
) -> None:
    """Headers are written anew, whatever came in; ports move on by their steps alone."""
    frame = packets.ether(packets.tcp(client(family), backend(family), ACK), ETH_P[family])
    other = packets.ether(packets.tcp(backend(family), client(family), ACK), ETH_P[family])
    expected = ends_of(frame, family)
    with Rewind(empty, IP_BYTES[family], 20) as rewind:
        rewind.write(frame, steps)
        for _ in range(3):
            expected = _moved(expected[0], steps[0]), _moved(expected[1], steps[1])
            ran = prog_run.run(rewind.fd, other)
            assert ran.verdict == prog_run.TC_NEXT
            assert ends_of(ran.data, family) == expected


def _moved(end: End, step: int) -> End:
    """Return an end after a step of its port's bytes, as they lie in the packet."""
    raw = int.from_bytes(end.port.to_bytes(2, "big"), sys.byteorder) + step
    return end._replace(port=int.from_bytes((raw & 0xFFFF).to_bytes(2, sys.byteorder), "big"))


def test_a_program_that_does_more_takes_longer(empty: int, family: Family) -> None:
    """The time is that of a run: an empty program's is shorter with nothing before it."""
    frame = packets.ether(packets.tcp(client(family), backend(family), ACK), ETH_P[family])
    with (
        Cluster(nodes=1, pods_per_node=0) as cluster,
        Rewind(empty, IP_BYTES[family], 20) as rewind,
    ):
        uplink = Uplink(cluster.nodes[0].netns, 0, bytes(6), {})
        rewind.write(frame)
        cpu = min(os.sched_getaffinity(0))
        pairs = [
            [timed(uplink, fd, frame, 2_000, cpu)[0] for fd in (empty, rewind.fd)] for _ in range(9)
        ]
    assert 0 < sorted(pair[0] for pair in pairs)[4] < sorted(pair[1] for pair in pairs)[4]


def test_every_kind_of_packet_is_what_it_says(family: Family) -> None:
    """An agent's programs translate what is ours, again and again, and nothing else."""
    with Cluster(nodes=1, pods_per_node=1) as cluster:
        (node,) = cluster.nodes
        with (
            uplink_with(cluster, node, SERVICES) as uplink,
            place_on(uplink, node, family) as place,
        ):
            cpu = min(os.sched_getaffinity(0))
            for series in range(2):
                for kind in KINDS:
                    assert nanoseconds.sample(place, kind, series, cpu) > 0
