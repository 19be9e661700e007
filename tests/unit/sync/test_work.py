# SPDX-License-Identifier: Apache-2.0
"""A round of writes that is longer than what is written at once."""

from __future__ import annotations

from pyproxy.sync.api import Room
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import PortPlan
from tests.unit.sync.fake import FakeDatapath
from tests.unit.sync.plans import address, backend, plan

MANY = 2500
BIG = Room(frontends=4096, services=4096, slots=16384, members=4096, nodes=4096, sources=4096)


def test_all_of_a_long_round_is_written_and_counted() -> None:
    """Members, nodes and slots of thousands of backends, each once."""
    datapath = FakeDatapath(BIG)
    syncer = Syncer(datapath, lambda _, __: True)
    wide = plan(backends=[backend(number, node=f"node-{number}") for number in range(MANY)])
    written = syncer.apply({wide.name: wide})
    assert {member.address for member in datapath.members.values()} == set(
        map(address, range(MANY))
    )
    assert len(datapath.nodes) == MANY
    assert datapath.log.count("member") == datapath.log.count("node") == MANY
    assert written == 2 * MANY + len(("name", "run", "frontend"))


def test_all_of_many_services_is_written() -> None:
    """Names, frontends and members of thousands of services, and their removal."""
    datapath = FakeDatapath(BIG)
    syncer = Syncer(datapath, lambda _, __: True)
    plans = [_small(number) for number in range(MANY)]
    syncer.apply({each.name: each for each in plans})
    assert len(datapath.names) == len(datapath.frontends) == len(datapath.members) == MANY
    assert {named.name for named in datapath.names.values()} == {each.name for each in plans}
    syncer.apply({each.name: None for each in plans})
    assert datapath.is_empty()


def _small(number: int) -> PortPlan:
    made = plan(f"s{number}")
    key = made.frontends[0].key._replace(address=address(number))
    return made._replace(frontends=(made.frontends[0]._replace(key=key),))
