# SPDX-License-Identifier: Apache-2.0
"""A service changes in one step: what connects meanwhile reaches the old set or the new one."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import PortPlan
from tests.datapath import children
from tests.datapath.asking import Answer, ask, draw, errno_of, open_socket
from tests.datapath.children import Board
from tests.datapath.flavours import OTHER_PORT, PORT, Flavour
from tests.datapath.node import Node
from tests.datapath.services import service
from tests.lab.waiting import wait_for

CHANGES = 2000
# slots are freed and used again as often as this: a stale one would be met soon
RECLAIM_EVERY = 20
CHECK_EVERY = 100
LEAST_CONNECTIONS = 500

# each service alternates between two sets; nothing is in two of the four
SETS = {1: ([1, 2], [3, 4, 5]), 2: ([6], [7, 8])}
PORTS = (PORT, OTHER_PORT)

Outcomes = Counter[Answer | str]


def connecting(flavour: Flavour, protocol: Protocol) -> children.Work[Outcomes]:
    """Return work that connects to service 1 with new sockets until it is stopped."""

    def work(board: Board) -> Outcomes:
        outcomes: Outcomes = Counter()
        while not board.stopped:
            found: list[Answer] = []
            to = flavour.service(1)
            error = errno_of(lambda: found.append(draw(flavour, protocol, to)))  # noqa: B023 - at once
            outcomes[error or found[0]] += 1
            board.progress += 1
        return outcomes

    return work


def sending(flavour: Flavour) -> children.Work[Outcomes]:
    """Return work that sends to service 1 on one socket until it is stopped."""

    def work(board: Board) -> Outcomes:
        outcomes: Outcomes = Counter()
        with open_socket(flavour, Protocol.UDP) as sock:
            while not board.stopped:
                found: list[Answer] = []
                to = flavour.service(1)
                error = errno_of(lambda: found.append(ask(sock, to).answer))  # noqa: B023 - at once
                outcomes[error or found[0]] += 1
                board.progress += 1
        return outcomes

    return work


def plans(family: Family, protocol: Protocol, turn: int) -> list[PortPlan]:
    """Return both services as they are at a turn: other backends, on another port."""
    return [
        service(family, number, sets[turn % 2], protocol=protocol, port=PORTS[turn % 2])
        for number, sets in SETS.items()
    ]


def change(node: Node, flavour: Flavour, protocol: Protocol, turn: int) -> None:
    """Bring the next turn into the kernel; some turns are asked for at once."""
    syncer = node.syncers[flavour.family]
    for plan in plans(flavour.family, protocol, turn):
        syncer.apply({plan.name: plan})
    if not turn % RECLAIM_EVERY:
        syncer.reclaim()
    if not turn % CHECK_EVERY:
        answer = draw(flavour, protocol, flavour.service(1), node.make_socket)
        assert answer.backend in SETS[1][turn % 2]
        assert answer.port == PORTS[turn % 2]


@pytest.mark.parametrize("kind", ["connect", "first-sendto", "sendto"])
@pytest.mark.parametrize("flavour", [Flavour.IPV4, Flavour.IPV6], ids=["ipv4", "ipv6"])
def test_rule_17_every_reader_sees_one_set(node: Node, flavour: Flavour, kind: str) -> None:
    """2,000 changes of two services under traffic: no failure, and never another's backend."""
    protocol = Protocol.TCP if kind == "connect" else Protocol.UDP
    work = sending(flavour) if kind == "sendto" else connecting(flavour, protocol)
    node.apply(*plans(flavour.family, protocol, 0))
    with node.running(work) as (board, child):
        for turn in range(1, CHANGES + 1):
            change(node, flavour, protocol, turn)
        for turn in itertools.count(CHANGES + 1):
            if board.progress >= LEAST_CONNECTIONS:
                break
            change(node, flavour, protocol, turn)
        board.stop()
        outcomes = child.result()
    expected = {Answer(n, port) for port, s in zip(PORTS, SETS[1], strict=True) for n in s}
    # how many of them a busy machine lets be seen is chance, what else is seen is not
    assert outcomes.total() >= LEAST_CONNECTIONS
    assert set(outcomes) <= expected


def test_a_service_that_moves_to_another_name_never_is_missing(node: Node) -> None:
    """An address that goes from one service to another in one round leads to one all the time."""
    flavour, family = Flavour.IPV4, Family.IPV4
    turns = [service(family, 1, [1]), service(family, 3, [2])]
    turns[1] = turns[1]._replace(frontends=turns[0].frontends)
    node.apply(turns[0])
    with node.running(connecting(flavour, Protocol.TCP)) as (board, child):
        for turn in range(100):
            gone, new = turns[turn % 2], turns[1 - turn % 2]
            node.syncers[family].apply({gone.name: None, new.name: new})
            node.syncers[family].reclaim()
        wait_for(lambda: board.progress > 100, children.patience_s(), "100 connections")
        board.stop()
        outcomes = child.result()
    assert set(outcomes) <= {Answer(1, PORT), Answer(2, PORT)}
