# SPDX-License-Identifier: Apache-2.0
"""Maps that contradict themselves: a wrong backend is never chosen (datapath rule 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.sync.api import FrontendValue, Run
from pyproxy.tables import FrontendKey, Kind
from tests.datapath.asking import Answer, ask, draw, errno_of
from tests.datapath.flavours import PORT, Flavour
from tests.datapath.node import Node
from tests.datapath.services import service, service_name

MINE, OTHER = [1, 2], [7, 8]
DRAWS = 300


class Maps:
    """The maps of one family with two services in them, to be written by hand."""

    def __init__(self, node: Node, family: Family, protocol: Protocol) -> None:
        node.apply(*(service(family, n, b, protocol=protocol) for n, b in ((1, MINE), (2, OTHER))))
        programmed = node.syncers[family].books.programmed
        self.datapath = node.loaded[family].datapath
        self.mine = programmed[service_name(1, protocol)]
        self.other = programmed[service_name(2, protocol)]
        (frontend,) = self.mine.state.frontends
        self.key: FrontendKey = frontend.key
        self.last_id = self.datapath.room.services - 1

    @property
    def run(self) -> Run:
        """The published run of the first service."""
        return self.mine.run

    def publish(self, first: int, generation: int) -> None:
        """Say that the first service's slots are here."""
        self.datapath.publish(self.mine.service, first, generation)

    def lead_to(self, number: int) -> None:
        """Make the first service's frontend lead to a service id."""
        self.datapath.put_frontends([(self.key, FrontendValue(number, Kind.CLUSTER_IP))])

    def repair(self) -> None:
        """Write the first service as the syncer did."""
        self.lead_to(self.mine.service)
        self.datapath.write_run(self.mine.service, self.run)
        self.publish(self.run.first, self.run.generation)


Damage = Callable[[Maps], None]

STALE: dict[str, Damage] = {
    "another-services-slots": lambda m: m.publish(m.other.run.first, m.run.generation),
    "another-services-state": lambda m: m.publish(m.other.run.first, m.other.run.generation),
    "a-backend-for-a-header": lambda m: m.publish(m.other.run.first + 1, m.run.generation),
    "another-generation": lambda m: m.publish(m.run.first, m.run.generation + 7),
    "never-written-slots": lambda m: m.publish(m.datapath.room.slots - 4, m.run.generation),
    "slots-beyond-the-array": lambda m: m.publish(m.datapath.room.slots + 1, m.run.generation),
    "the-last-slot-number": lambda m: m.publish(0xFFFFFFFF, m.run.generation),
    "slot-0": lambda m: m.publish(0, m.run.generation),
    "a-service-never-written": lambda m: m.lead_to(m.last_id),
    "a-service-beyond-the-array": lambda m: m.lead_to(m.last_id + 1),
}


@pytest.mark.parametrize("damage", STALE.values(), ids=STALE)
def test_rule_07_a_stale_slot_is_refused(
    node: Node, flavour: Flavour, protocol: Protocol, damage: Damage
) -> None:
    """Slots that are not the service's are never used: refused and counted, until all is well."""
    maps = Maps(node, flavour.family, protocol)
    to = flavour.service(1)
    damage(maps)
    with node.counting(flavour.family, refused=1, stale=1):
        attempt = errno_of(lambda: draw(flavour, protocol, to, node.make_socket))
        assert attempt == "ECONNREFUSED"
    maps.repair()
    assert draw(flavour, protocol, to, node.make_socket).backend in MINE


def test_rule_07_a_stale_service_moves_no_datagrams(node: Node, flavour: Flavour) -> None:
    """A socket that has a backend is refused too while its service is not to be trusted."""
    maps = Maps(node, flavour.family, Protocol.UDP)
    to = flavour.service(1)
    with node.socket(flavour, Protocol.UDP) as sock:
        had = ask(sock, to)
        for damage in (STALE["slot-0"], STALE["a-service-beyond-the-array"]):
            damage(maps)
            assert errno_of(lambda: sock.sendto(b"?", to)) == "ECONNREFUSED"
            maps.repair()
            assert ask(sock, to) == had


@pytest.mark.parametrize("wrong", ["service", "generation"])
def test_rule_07_a_stale_backend_slot_is_never_used(
    node: Node, flavour: Flavour, protocol: Protocol, wrong: str
) -> None:
    """One of two backend slots is another's: connections reach the right one or are refused."""
    maps = Maps(node, flavour.family, protocol)
    owner = maps.mine.service if wrong == "generation" else maps.other.service
    generation = maps.run.generation + (wrong == "generation")
    # a header in its slot would be read as a backend: only its owner tells
    stray = maps.other.run._replace(first=maps.run.first + 1, generation=generation, backends=())
    maps.datapath.write_run(owner, stray)
    to = flavour.service(1)

    def outcome() -> Answer | str:
        found: list[Answer] = []
        return errno_of(lambda: found.append(draw(flavour, protocol, to))) or found[0]

    counts = node.inside(lambda: Counter(outcome() for _ in range(DRAWS)))
    assert set(counts) <= {Answer(MINE[1], PORT), "ECONNREFUSED"}
    # three tries with one half each: one in eight is refused
    assert counts["ECONNREFUSED"] < DRAWS / 4
    assert node.counters(flavour.family)["stale"] >= counts["ECONNREFUSED"]


def test_rule_07_a_count_beyond_the_array_is_never_used(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """A header that promises more backends than there are slots leads to no wrong backend."""
    maps = Maps(node, flavour.family, protocol)
    header = maps.run.header._replace(cluster_count=0xFFFFFFFF)
    maps.datapath.write_run(maps.mine.service, maps.run._replace(header=header, backends=()))
    to = flavour.service(1)
    with node.counting(flavour.family, refused=1, stale=1):
        attempt = errno_of(lambda: draw(flavour, protocol, to, node.make_socket))
        assert attempt == "ECONNREFUSED"
    maps.repair()


REUSED = {
    "address": lambda service, fold, *more: (service, fold ^ 1, *more),
    "port": lambda service, fold, port, *more: (service, fold, port + 1, *more),
    "protocol": lambda service, fold, port, _, *more: (service, fold, port, 132, *more),
    "nothing": lambda *value: (0, 0, 0, 0, *value[4:]),
}


@pytest.mark.parametrize("reuse", REUSED.values(), ids=REUSED)
def test_rule_07_a_frontend_value_of_another_key_is_none(
    node: Node, flavour: Flavour, protocol: Protocol, reuse: Callable[..., tuple[int, ...]]
) -> None:
    """A value that was reused for another key under a reader's eyes is no service's."""
    maps = Maps(node, flavour.family, protocol)
    frontends = maps.datapath.frontends
    (value,) = [v for k, v in frontends.items() if k == maps.key]
    to = flavour.service(1)
    frontends.update([(maps.key, reuse(*value))])
    with node.counting(flavour.family):
        attempt = errno_of(lambda: draw(flavour, protocol, to, node.make_socket))
        assert attempt == "ENETUNREACH"
    frontends.update([(maps.key, value)])
    assert draw(flavour, protocol, to, node.make_socket).backend in MINE
