# SPDX-License-Identifier: Apache-2.0
"""forwardAccept: what netfilter's FORWARD is to accept bears a mark, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.hooks import Hooks, Wire
from tests.datapath.node import Node

OTHERS = 0x8000_4001  # bits of others, the bit by default among them
BIT = 20
OFF = Options("here", masquerade_bit=BIT)
ON = OFF._replace(forward_accept=True)
REFRESHED_TICKS = 61  # bpf/connection.h: REFRESH_TICKS, and one more


@pytest.fixture
def hooks(node: Node, family: Family, protocol: Protocol, tmp_path: Path) -> Iterator[Hooks]:
    """A device, and a service."""
    node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as made:
        yield made


def first(hooks: Hooks, protocol: Protocol, number: int = 1) -> int:
    """Return the mark of what begins a connection."""
    packet = hooks.first(protocol, client(hooks.family, number), frontend(hooks.family))
    return hooks.mark_after("ingress", packet, OTHERS)


def further(hooks: Hooks, protocol: Protocol) -> int:
    """Return the mark of what goes on in it."""
    packet = hooks.further(protocol, client(hooks.family), frontend(hooks.family))
    return hooks.mark_after("ingress", packet, OTHERS)


@pytest.mark.parametrize("bit", [0, BIT, 31])
def test_requests_are_marked(hooks: Hooks, protocol: Protocol, bit: int) -> None:
    """All of a connection's, each time; the bits of others stay. Its answers are conntrack's."""
    hooks.configure(options=ON._replace(masquerade_bit=bit))
    assert first(hooks, protocol) == OTHERS | 1 << bit
    answer = hooks.answer(protocol, backend(hooks.family), client(hooks.family))
    assert hooks.mark_after("egress", answer, OTHERS) == OTHERS
    assert further(hooks, protocol) == OTHERS | 1 << bit


def test_what_is_not_translated_is_not_marked(hooks: Hooks, protocol: Protocol) -> None:
    """Who asks a backend directly is let through by whom that concerns."""
    hooks.configure(options=ON)
    packet = hooks.first(protocol, client(hooks.family), backend(hooks.family))
    assert hooks.mark_after("ingress", packet, OTHERS) == OTHERS


def test_nothing_is_marked_by_default(hooks: Hooks, protocol: Protocol) -> None:
    """Packets keep the marks that they have."""
    hooks.configure(options=OFF)
    assert (first(hooks, protocol), further(hooks, protocol)) == (OTHERS, OTHERS)


def test_connections_follow_the_setting(hooks: Hooks, protocol: Protocol) -> None:
    """One that is there already is marked within a second, and at once no longer."""
    hooks.configure(options=OFF)
    assert first(hooks, protocol) == OTHERS
    hooks.configure(options=ON)
    assert further(hooks, protocol) == OTHERS
    hooks.table.age(hooks.table.claimed()[0], REFRESHED_TICKS)
    assert further(hooks, protocol) == OTHERS | 1 << BIT
    hooks.configure(options=OFF)
    assert further(hooks, protocol) == OTHERS
    hooks.configure(options=ON)
    hooks.table.age(hooks.table.claimed()[0], REFRESHED_TICKS)
    assert further(hooks, protocol) == OTHERS | 1 << BIT
    hooks.configure(options=OFF)
    hooks.table.age(hooks.table.claimed()[0], REFRESHED_TICKS)
    assert further(hooks, protocol) == OTHERS
    assert not hooks.table.only().flags & Life.MARKED
