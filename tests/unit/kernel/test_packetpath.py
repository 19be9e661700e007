# SPDX-License-Identifier: Apache-2.0
"""What the packet path is told: times in its own units, ports that are nobody else's."""

from __future__ import annotations

import itertools

import pytest

from pyproxy.kernel.packetpath import ticks
from pyproxy.kernel.ports import (
    FEWEST_PORTS,
    FIRST_PORT,
    NODE_PORTS,
    format_ports,
    parse_ports,
    source_ports,
)
from pyproxy.tables import PortRange

PORTS = 65_536


EVERYTHING_BELOW = PortRange(1_024, 28_976)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (1, 60), (10, 597), (60, 3577), (86_400, 5_149_842)],
)
def test_times_are_rounded_up_to_ticks(seconds: int, expected: int) -> None:
    """A tick is 2^24 ns; a timeout is never shorter than what was asked for."""
    assert ticks(seconds) == expected
    assert (expected - 1) * 2**24 < seconds * 10**9 <= expected * 2**24 or seconds == 0


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        # the kernel's default
        ((32_768, 60_999), PortRange(1_024, 28_976)),
        # what NodePorts leave above
        ((1_024, 29_999), PortRange(32_768, 32_768)),
        ((15_000, 20_000), PortRange(32_768, 32_768)),
        # ranges that touch and overlap the NodePorts
        ((28_000, 31_000), PortRange(32_768, 32_768)),
        ((31_000, 65_535), PortRange(1_024, 28_976)),
        ((10_000, 65_535), PortRange(1_024, 8_976)),
        # below the first port that is anybody's
        ((1, 500), PortRange(32_768, 32_768)),
    ],
)
def test_source_ports_are_the_longest_free_run(local: tuple[int, int], expected: PortRange) -> None:
    """Neither NodePorts nor what sockets get by themselves (rule 9)."""
    assert source_ports(local) == expected


def test_source_ports_are_nobody_elses() -> None:
    """No port is reserved, a NodePort or, unless too few would be left, a socket's."""
    edges = [1, 1_023, 1_024, 1_025, *range(2_000, 65_000, 4_500), 29_999, 30_000, 32_767, 32_768]
    for local in itertools.combinations(sorted({*edges, 65_535}), 2):
        found = source_ports(local)
        last = found.first + found.many - 1
        assert found.many >= FEWEST_PORTS
        assert FIRST_PORT <= found.first <= last < PORTS
        assert last < NODE_PORTS[0] or found.first > NODE_PORTS[1]
        if found != EVERYTHING_BELOW:
            assert last < local[0] or found.first > local[1]


def test_where_sockets_take_everything_source_ports_are_shared() -> None:
    """A local port range that leaves too few is a lesser evil than no source at all."""
    for local in ((1_024, 65_535), (1_024, 65_000)):
        assert source_ports(local) == EVERYTHING_BELOW


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n", set()),
        ("8080\n", {8080}),
        ("8080,9000-9003,65535\n", {8080, 9000, 9001, 9002, 9003, 65_535}),
    ],
)
def test_lists_of_ports(text: str, expected: set[int]) -> None:
    """As the kernel writes them (proc_do_large_bitmap), and back."""
    assert parse_ports(text) == expected
    assert format_ports(expected) == text.strip()
