# SPDX-License-Identifier: Apache-2.0
"""Which record a new connection gets, and which entries of others it respects (bpf/table.h)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import (
    ESTABLISHED,
    OPENED,
    OPENING_TICKS,
    Key,
    Lead,
    Record,
    Role,
    Side,
    begin_tick,
)
from tests.datapath.hooks import Hooks, Wire
from tests.datapath.node import Node
from tests.datapath.packets import SYN

TCP = Protocol.TCP
CLOSED = Life.FIN_CLIENT | Life.FIN_BACKEND
UNFINISHED = Life.CLAIMED


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device and a service, on one CPU: each has a hand of its own."""
    everywhere = os.sched_getaffinity(0)
    node.apply(plan(family, TCP))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        os.sched_setaffinity(0, {min(everywhere)})
        yield found
        os.sched_setaffinity(0, everywhere)


def opened(hooks: Hooks, port: int = 40_000) -> Record:
    """Begin a connection and return its record."""
    c = client(hooks.family, port=port)
    hooks.ingress(hooks.tcp(c, frontend(hooks.family), SYN))
    return next(each for each in hooks.table.records() if each.client == c)


def test_the_records_that_follow_come_first(hooks: Hooks) -> None:
    """One after the other, before any that would have to make room."""
    last = hooks.table.connections.max - 1
    first = opened(hooks).number
    # after the last one comes the first again, which is number 1
    second, third, fourth, fifth = ((first + n - 1) % last + 1 for n in range(1, 5))
    assert opened(hooks, 40_001).number == second
    for number in (third, fourth):
        hooks.table.set_life(number, OPENED, OPENING_TICKS + 60)
    with hooks.node.counting(hooks.family, packet_open=1, packet_in=1):
        assert opened(hooks, 40_002).number == fifth


@pytest.mark.parametrize(
    ("flags", "setting", "older", "respected"),
    [
        (Life(0), "", 0, False),
        (UNFINISHED, "tcp_opening", 0, True),
        (UNFINISHED, "tcp_opening", 1, False),
        (OPENED, "tcp_opening", 0, True),
        (OPENED, "tcp_opening", 1, False),
        (ESTABLISHED, "", 0, True),
        (ESTABLISHED | CLOSED, "", 0, False),
    ],
    ids=["free", "being-made", "never-made", "opening", "given-up", "established", "closed"],
)
def test_an_entry_that_leads_to_somebody_elses_record(
    hooks: Hooks, flags: Life, setting: str, older: int, respected: bool
) -> None:
    """Answers to the same port would be the other's: it is respected while that one needs them."""
    family = hooks.family
    c, number = client(family), hooks.table.connections.max - 2
    answers = Key(backend(family), c, TCP, Side.EGRESS)
    begin_tick()
    hooks.table.set_life(number, flags, hooks.timeout(setting) + older if setting else 0)
    hooks.table.put({answers: Lead(number, Role.REPLY)})
    hooks.ingress(hooks.tcp(c, frontend(family), SYN))
    ours = next(each for each in hooks.table.records() if each.client == c)
    assert (ours.client_port != c.port) is respected
    assert (hooks.table.entries()[answers].number == number) is respected
