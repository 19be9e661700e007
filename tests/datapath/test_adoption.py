# SPDX-License-Identifier: Apache-2.0
"""An agent that dies at any write, and the one after it; fault injection on the real maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pyproxy.agent.sync import serves
from pyproxy.errors import KernelError
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.model import Family, Protocol, ServicePortName
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import PortPlan
from tests.datapath.asking import Answer, draw, errno_of
from tests.datapath.faults import FaultyDatapath, contents, wanted
from tests.datapath.flavours import OTHER_PORT, PORT, Flavour
from tests.datapath.node import Node
from tests.datapath.services import dropping, refusing, service

TCP = Protocol.TCP
MOST_WRITES = 200
FLAVOURS = {Family.IPV4: Flavour.IPV4, Family.IPV6: Flavour.IPV6}

Plans = dict[ServicePortName, PortPlan]


def before(family: Family) -> Plans:
    """Return services of every kind."""
    plans = [
        service(family, 1, [1, 2]),
        refusing(family, 2),
        dropping(family, 3),
        service(family, 4, [3]),
        service(family, 6, [4], leaving=[5]),
    ]
    return {plan.name: plan for plan in plans}


def after(family: Family) -> Plans:
    """Return the same services changed in every way: one is gone, one takes its address."""
    taken = service(family, 4).frontends
    plans = [
        service(family, 1, [2, 5], port=OTHER_PORT),
        service(family, 2, [6]),
        dropping(family, 3, local=1),
        service(family, 5, [7])._replace(frontends=taken),
        service(family, 6, [4])._replace(created="2027-01-01T00:00:00Z"),
    ]
    return {plan.name: plan for plan in plans}


# by service address: what a connection may meet in the middle of the change
ALLOWED: dict[int, set[Answer | str]] = {
    1: {Answer(1, PORT), Answer(2, PORT), Answer(2, OTHER_PORT), Answer(5, OTHER_PORT)},
    2: {"ECONNREFUSED", Answer(6, PORT)},
    3: {"ENETUNREACH", Answer(1, PORT)},
    4: {Answer(3, PORT), Answer(7, PORT)},
    6: {Answer(4, PORT)},
}
CHANGES: dict[str, Callable[[Family], Plans]] = {"change": after, "removal": lambda _: {}}


def changes(old: Plans, new: Plans) -> dict[ServicePortName, PortPlan | None]:
    """Return what turns one into the other."""
    return {name: new.get(name) for name in old.keys() | new.keys()}


class Agent:
    """A syncer on maps that can fail at a write."""

    def __init__(self, node: Node, family: Family) -> None:
        self.datapath = FaultyDatapath(node.loaded[family].datapath)
        self.syncer = Syncer(self.datapath, serves)  # type: ignore[arg-type] # is never audited

    def dies(self, plans: Mapping[ServicePortName, PortPlan | None], fail_at: int) -> bool:
        """Apply plans on maps that fail at a write; return whether it came to that."""
        self.datapath.writes, self.datapath.fail_at = 0, fail_at
        try:
            self.syncer.apply(plans)
        except KernelError:
            return True
        finally:
            self.datapath.fail_at = 0
        self.syncer.reclaim()
        return False


def is_as_wanted(node: Node, family: Family, plans: Plans) -> None:
    """Assert that the maps hold these plans and nothing else."""
    datapath = node.loaded[family].datapath
    assert contents(datapath) == {name: wanted(plan) for name, plan in plans.items()}
    ends = {f.key[:2] for plan in plans.values() for f in plan.frontends}
    assert marked(node, family) == {endpoint_hash(*end) for end in ends}


def marked(node: Node, family: Family) -> set[int]:
    """Return the marks that say: packets to this end are worth a look."""
    marks = node.loaded[family].datapath.marks
    offset = marks.layout["frontend"].offset
    bytes_of = marks.read(0, marks.max)[offset :: marks.stride]
    return {index for index, byte in enumerate(bytes_of) if byte}


def outcomes_are_allowed(node: Node, family: Family) -> None:
    """Assert that every connection meets the old state or the new one."""
    flavour = FLAVOURS[family]
    for number, allowed in ALLOWED.items():
        found: list[Answer] = []
        to = flavour.service(number)
        error = errno_of(lambda: found.append(draw(flavour, TCP, to, node.make_socket)))  # noqa: B023 - at once
        assert (error or found[0]) in allowed


# each costs 1.5 s: every way in one family
@pytest.mark.parametrize(
    ("family", "change", "is_new_agent"),
    [
        (Family.IPV4, "change", True),
        (Family.IPV6, "change", False),
        (Family.IPV6, "removal", True),
        (Family.IPV4, "removal", False),
    ],
    ids=["change-new-agent", "change-same-agent", "removal-new-agent", "removal-same-agent"],
)
def test_a_failure_at_any_write_is_mended(
    node: Node, family: Family, change: str, is_new_agent: bool
) -> None:
    """Whatever write an agent dies at, connections go on, and the next round brings all right."""
    old, new = before(family), CHANGES[change](family)
    for fail_at in range(1, MOST_WRITES):
        agent = Agent(node, family)
        agent.syncer.apply(changes(new, old))
        is_dead = agent.dies(changes(old, new), fail_at)
        if change == "change":
            outcomes_are_allowed(node, family)
        if is_new_agent:
            Agent(node, family).syncer.apply(new)
        else:
            agent.syncer.apply({})
        is_as_wanted(node, family, new)
        if not is_dead:
            break
    assert 10 < fail_at < MOST_WRITES - 1
    node.make_syncers()
    node.syncers[family].apply({})


@pytest.mark.parametrize("is_new_agent", [True, False], ids=["new-agent", "same-agent"])
def test_a_write_that_fails_again_and_again_fills_no_map(
    node: Node, family: Family, is_new_agent: bool
) -> None:
    """Rounds that all end at their fifth write leave no more than one such round does."""
    old, new = before(family), after(family)
    datapath = node.loaded[family].datapath
    agent = Agent(node, family)
    agent.syncer.apply(old)
    filled = []
    for _ in range(20):
        if is_new_agent:
            agent = Agent(node, family)
        assert agent.dies(new, 5)
        outcomes_are_allowed(node, family)
        filled.append(len(datapath.names) + len(datapath.members) + len(datapath.nodes))
    Agent(node, family).syncer.apply(new)
    is_as_wanted(node, family, new)
    node.make_syncers()
    node.syncers[family].apply({})
    # five new entries a round; those of the round before may still be there
    assert max(filled) <= filled[0] + 5


@pytest.mark.kernel
def test_a_new_agent_that_wants_the_same_writes_nothing(node: Node, family: Family) -> None:
    """What is pinned is adopted: an agent that starts with the same services writes nothing."""
    plans = before(family)
    node.syncers[family].apply(plans)
    agent = Agent(node, family)
    assert agent.syncer.apply(plans) == 0
    assert agent.datapath.writes == 0
    is_as_wanted(node, family, plans)


def test_a_new_agent_writes_only_the_difference(node: Node, family: Family) -> None:
    """One of five services changed while no agent ran: the others keep their very slots."""
    plans = before(family)
    node.syncers[family].apply(plans)
    datapath = node.loaded[family].datapath
    kept = datapath.read().runs
    changed = service(family, 1, [8])
    node.make_syncers()
    node.syncers[family].apply(plans | {changed.name: changed})
    runs = datapath.read().runs
    different = [number for number, run in runs.items() if run != kept[number]]
    assert [datapath.read_names()[number].name for number in different] == [changed.name]
    is_as_wanted(node, family, plans | {changed.name: changed})


def test_any_order_of_services_gives_the_same_and_empty_maps(node: Node, family: Family) -> None:
    """Plans in both orders give the same contents, and their removal in both gives empty maps."""
    plans = after(family)
    syncer = node.syncers[family]
    for names in (list(plans), list(reversed(plans))):
        for name in names:
            syncer.apply({name: plans[name]})
        is_as_wanted(node, family, plans)
        for name in names:
            syncer.apply({name: None})
        is_as_wanted(node, family, {})


def test_a_frontend_of_a_kind_that_only_a_later_version_knows_is_mended(
    node: Node, family: Family
) -> None:
    """After a downgrade the agent writes such frontends anew, and removes those nobody wants."""
    plans = before(family)
    node.syncers[family].apply(plans)
    datapath = node.loaded[family].datapath
    (key, value), *_ = datapath.frontends.items()
    datapath.frontends.update([(key, (*value[:4], 99, *value[5:]))])
    node.make_syncers()
    syncer = node.syncers[family]
    assert syncer.apply(plans) > 0
    is_as_wanted(node, family, plans)
    # the id 0 that it led to means "no service", and is never given to one
    syncer.reclaim()
    syncer.apply({**dict.fromkeys(plans), **after(family)})
    assert 0 not in datapath.read_names()
