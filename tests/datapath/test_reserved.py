# SPDX-License-Identifier: Apache-2.0
"""Ports of services are kept from sockets that ask for none in particular (rule 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.agent.reserving import Reserving
from pyproxy.kernel import ports, reserved
from pyproxy.model import Family
from tests.datapath.node import Node
from tests.lab import netns

Keep = Callable[[set[int]], set[int]]


@pytest.fixture
def shared(node: Node) -> Iterator[Path]:
    """Where the map is; nothing is reserved before and after."""
    path = node.loaded[Family.IPV4].pins.shared
    try:
        yield path
    finally:
        netns.inside(node.namespace, lambda: reserved.give_back(path))
        netns.inside(node.namespace, lambda: ports.reserve_ports(()))


@pytest.fixture
def keep(node: Node, shared: Path) -> Keep:
    """What an agent does; returns the sysctl then."""

    def work(served: set[int]) -> set[int]:
        def inside() -> set[int]:
            found = reserved.ReservedPorts(shared)
            try:
                found.keep(served)
            finally:
                found.close()
            return ports.reserved_ports()

        return netns.inside(node.namespace, inside)

    return work


def operator(node: Node, wanted: set[int]) -> None:
    """Reserve ports as an operator does."""
    netns.inside(node.namespace, lambda: ports.reserve_ports(wanted))


def test_only_what_sockets_could_get(keep: Keep) -> None:
    """The kernel gives out 32768 to 60999: NodePorts are mostly elsewhere."""
    assert keep({80, 30_080, 32_767, 32_768, 60_999, 61_000}) == {32_768, 60_999}


def test_what_is_served_no_more_is_given_back(keep: Keep) -> None:
    """One service after the other."""
    assert keep({33_000, 33_001}) == {33_000, 33_001}
    assert keep({33_001, 33_002}) == {33_001, 33_002}
    assert keep(set()) == set()


def test_an_operators_ports_stay(node: Node, keep: Keep) -> None:
    """Those that a service has too stay his; those that he takes back while we serve are ours."""
    operator(node, {8_080, 33_000})
    assert keep({33_000, 33_001}) == {8_080, 33_000, 33_001}
    assert keep(set()) == {8_080, 33_000}
    assert keep({33_001}) == {8_080, 33_000, 33_001}
    operator(node, set())
    assert keep({33_001}) == {33_001}
    assert keep(set()) == set()


def test_however_many_an_operator_has_they_stay(node: Node, keep: Keep) -> None:
    """The kernel says only once what it has, and only as much as there is room for."""
    many = set(range(1_025, 10_001, 2))
    operator(node, many)
    assert keep({33_000}) == many | {33_000}
    assert keep(set()) == many


def test_cleanup_gives_back(node: Node, shared: Path, keep: Keep) -> None:
    """Whoever takes everything away knows what was ours, though the agent is gone."""
    operator(node, {8_080})
    keep({33_000})
    netns.inside(node.namespace, lambda: reserved.give_back(shared))
    assert netns.inside(node.namespace, ports.reserved_ports) == {8_080}


def test_no_reserved_port_stands_for_a_client(node: Node, shared: Path, keep: Keep) -> None:
    """The programs are told of an operator's ports, and of ours."""
    operator(node, {8_080})
    keep({33_000})
    found = reserved.ReservedPorts(shared)
    try:
        assert found.kept() == {8_080, 33_000}
    finally:
        found.close()


def test_what_cannot_be_written_is_a_problem(
    shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says what to do; as soon as it can be written it is."""
    where = tmp_path / "sysctl"
    where.write_text("")
    where.chmod(0o400)
    monkeypatch.setattr(ports, "RESERVED_PORTS", tmp_path)
    reserving = Reserving(shared)
    reserving.keep({33_000})
    (problem,) = reserving.problems()
    assert problem.code == "ports-not-reserved"
    assert "ip_local_reserved_ports" in problem.remedy
    monkeypatch.setattr(ports, "RESERVED_PORTS", where)
    reserving.keep({33_000})
    assert reserving.problems() == []
    assert ports.reserved_ports() == {33_000}
    reserving.keep(set())
