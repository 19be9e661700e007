# SPDX-License-Identifier: Apache-2.0
"""Rules 16, 17 and 18, and evenness: which backends packets get, and until when they keep them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import Member, ServiceFlag
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import ESTABLISHED, OPENED
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK
from tests.datapath.services import LEAVING

TCP, UDP = Protocol.TCP, Protocol.UDP
LOCAL = ServiceFlag.INTERNAL_LOCAL | ServiceFlag.HAS_ENDPOINTS
CLUSTER = ServiceFlag.HAS_ENDPOINTS


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device."""
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def draws(hooks: Hooks, protocol: Protocol, number: int) -> Counter[bytes]:
    """Begin so many connections to service 1; return which backend's address got how many."""
    family = hooks.family
    found: Counter[bytes] = Counter()
    hooks.table.clear()
    for n in range(number):
        hooks.ingress(hooks.first(protocol, client(family, port=2_000 + n), frontend(family)))
    for record in hooks.table.records():
        found[record.backend.address] += 1
    assert sum(found.values()) == number
    return found


SETS: dict[str, tuple[ServiceFlag, set[int]]] = {
    "local": (LOCAL, {1, 2, 3}),
    "cluster": (CLUSTER, {3, 4, 5, 6}),
}


@pytest.mark.parametrize("name", SETS)
def test_rule_16_local_is_no_prefix_of_cluster(hooks: Hooks, protocol: Protocol, name: str) -> None:
    """Local-only backends get nothing by a Cluster policy, cluster-only ones nothing by Local."""
    flags, expected = SETS[name]
    backends = range(1, 7)
    hooks.node.apply(
        plan(hooks.family, protocol, 1, backends, local=3, cluster=(2, 4), flags=flags)
    )
    found = draws(hooks, protocol, 120)
    assert set(found) == {backend(hooks.family, n).address for n in expected}


@pytest.mark.parametrize("offset", [0, 2], ids=["all-local", "apart"])
def test_rule_16_sets_without_a_common_backend(hooks: Hooks, offset: int) -> None:
    """Both sets can be the same, or have nothing in common."""
    family = hooks.family
    cluster = (offset, 2)
    numbers = [1, 2] if offset == 0 else [1, 2, 3, 4]
    for flags, first in ((LOCAL, 1), (CLUSTER, 1 + offset)):
        hooks.node.apply(plan(family, TCP, 1, numbers, local=2, cluster=cluster, flags=flags))
        found = draws(hooks, TCP, 40)
        assert set(found) == {backend(family, n).address for n in (first, first + 1)}


def test_every_backend_gets_its_share(hooks: Hooks, protocol: Protocol) -> None:
    """Chi-square over 250 draws a backend: worse than 33.4 happens once in a million runs."""
    backends, each = range(1, 6), 250
    hooks.node.apply(plan(hooks.family, protocol, 1, backends))
    found = draws(hooks, protocol, len(backends) * each)
    assert set(found) == {backend(hooks.family, n).address for n in backends}
    chi_square = sum((count - each) ** 2 / each for count in found.values())
    assert chi_square < 33.4


def test_rule_17_all_frontends_change_at_once(hooks: Hooks, protocol: Protocol) -> None:
    """While a service's backends change, no frontend shows older ones than one asked before it."""
    family = hooks.family
    frontends = [frontend(family, n) for n in range(1, 5)]
    changes = 100

    def change() -> None:
        for n in range(2, changes + 1):
            hooks.node.apply(plan(family, protocol, 1, [n], frontends=frontends))
            hooks.node.reclaim()

    hooks.node.apply(plan(family, protocol, 1, [1], frontends=frontends))
    thread = threading.Thread(target=change)
    thread.start()
    order: list[int] = []
    while thread.is_alive() and len(order) < 40_000:
        c = client(family, port=2_000 + len(order))
        to = frontends[len(order) % len(frontends)]
        arrived = hooks.ingress(hooks.first(protocol, c, to)).data
        at = 16 if family is Family.IPV4 else 24
        address = arrived[at : at + family.address_bytes]
        assert address[:-1] == backend(family).address[:-1]
        order.append(address[-1])
    thread.join()
    assert order == sorted(order)
    assert len(set(order)) > 1
    last = hooks.ingress(hooks.first(protocol, client(family, port=1_999), frontends[0]))
    assert last.data == hooks.first(protocol, client(family, port=1_999), backend(family, changes))


@pytest.mark.kernel
def test_rule_18_a_datagram_leaves_a_backend_that_is_gone(hooks: Hooks) -> None:
    """The next datagram goes to one that is alive; one that still is a member is kept."""
    family = hooks.family
    c, f = client(family), frontend(family)
    hooks.node.apply(plan(family, UDP, 1, [1]))
    assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, 1)))
    hooks.node.apply(plan(family, UDP, 1, [2, 1, 3, 4]))
    for _ in range(20):
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, 1)))
    hooks.node.apply(plan(family, UDP, 1, [2]))
    with hooks.node.counting(family, packet_open=1, packet_in=2):
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, 2)))
        assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, backend(family, 2)))
    assert len(hooks.table.claimed()) == 1
    assert len(hooks.table.entries()) == 2
    late = hooks.udp(backend(family, 1), c)
    assert hooks.egress(late) == passed(late)


def test_rule_18_a_backend_that_drains_keeps_what_it_has(hooks: Hooks, protocol: Protocol) -> None:
    """A terminating endpoint that serves gets nothing new and loses nothing (A5.4)."""
    family = hooks.family
    c, f = client(family), frontend(family)
    hooks.node.apply(plan(family, protocol, 1, [1]))
    first = hooks.first(protocol, c, f)
    arrives = hooks.ingress(first)
    draining = Member(*backend(family, 1), LEAVING)
    after = plan(family, protocol, 1, [2])
    hooks.node.apply(after._replace(members=tuple(sorted((*after.members, draining)))))
    assert hooks.ingress(first) == arrives
    other = client(family, 2)
    new = hooks.ingress(hooks.first(protocol, other, f))
    assert new == passed(hooks.first(protocol, other, backend(family, 2)))


def test_rule_18_membership_is_asked_for_once_a_change(hooks: Hooks, protocol: Protocol) -> None:
    """The record notes for which state of the service its backend was a member."""
    family = hooks.family
    first = hooks.first(protocol, client(family), frontend(family))
    hooks.node.apply(plan(family, protocol, 1, [1]))
    hooks.ingress(first)
    old = hooks.table.only()
    hooks.node.apply(plan(family, protocol, 1, [1, 2]))
    hooks.ingress(first)
    new = hooks.table.only()
    assert new.generation > old.generation
    assert new._replace(generation=old.generation, seen=old.seen) == old
    now = hooks.node.loaded[family].datapath.generation(new.service)
    assert new.generation == now


def test_rule_18_tcp_in_mid_stream_stays_with_its_backend(hooks: Hooks) -> None:
    """A connection ends when its ends say so; a SYN on it picks a backend that is alive."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family, 1)
    hooks.node.apply(plan(family, TCP, 1, [1]))
    syn = hooks.first(TCP, c, f)
    hooks.ingress(syn)
    hooks.egress(hooks.answer(TCP, b, c))
    hooks.ingress(hooks.tcp(c, f, ACK))
    assert hooks.table.only().flags == ESTABLISHED
    hooks.node.apply(plan(family, TCP, 1, [2]))
    assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(c, b, ACK))
    assert hooks.egress(hooks.tcp(b, c, ACK)) == passed(hooks.tcp(f, c, ACK))
    assert hooks.ingress(syn) == passed(hooks.first(TCP, c, backend(family, 2)))
    assert hooks.table.only().flags == OPENED
    late = hooks.tcp(b, c, ACK)
    assert hooks.egress(late) == passed(late)


def test_rule_18_a_service_that_came_back_is_another(hooks: Hooks, protocol: Protocol) -> None:
    """A connection to a deleted service is over, even if a new one has the same address."""
    family = hooks.family
    c, f = client(family), frontend(family)
    hooks.node.apply(plan(family, protocol, 1, [1]))
    first = hooks.first(protocol, c, f)
    hooks.ingress(first)
    hooks.node.remove(plan(family, protocol, 1, [1]))
    hooks.node.apply(plan(family, protocol, 2, [2], frontends=[f]))
    assert hooks.ingress(first) == passed(hooks.first(protocol, c, backend(family, 2)))
    assert len(hooks.table.claimed()) == 1
