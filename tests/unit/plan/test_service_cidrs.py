# SPDX-License-Identifier: Apache-2.0
"""The CIDRs of all ServiceCIDRs end up in the options, and cost no plan."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.model import Node, Prefix, ServiceCIDR
from pyproxy.plan import world as world_module
from pyproxy.plan.options import Options
from pyproxy.plan.world import World
from tests.builders import service_cidr_record
from tests.unit.plan.records import NODE, cidrs, options, service

NAMES = st.sampled_from("abc")
CIDRS = st.sampled_from(cidrs("10.96.0.0/16", "10.96.0.0/12", "9.0.0.0/8", "fd00::/112", "::/64"))
RECORDS = st.builds(ServiceCIDR, NAMES, st.lists(CIDRS, max_size=2).map(tuple))
Step: TypeAlias = ServiceCIDR | str


def told(*steps: Step) -> World:
    """Return a world that was told of these, a name meaning that one is gone."""
    world = World(options())
    for step in steps:
        if isinstance(step, ServiceCIDR):
            world.put_service_cidr(step)
        else:
            world.drop_service_cidr(step)
    return world


def test_all_cidrs_are_joined() -> None:
    """Each once and in an order that events do not change, IPv4 first; other settings stay."""
    first = service_cidr_record("kubernetes", ["fd00::/112", "10.96.0.0/16"])
    second = service_cidr_record("more", ["10.96.0.0/16", "9.0.0.0/8"])
    expected = cidrs("9.0.0.0/8", "10.96.0.0/16", "fd00::/112")
    for order in ((first, second), (second, first), (first, second, first)):
        world = told(*order)
        assert world.options == options(service_cidrs=expected)
        world.drop_service_cidr("more")
        assert world.options.service_cidrs == cidrs("10.96.0.0/16", "fd00::/112")
        world.drop_service_cidr("kubernetes")
        assert world.options == options()
        assert world.is_empty()


@given(st.lists(RECORDS | NAMES, max_size=12))
def test_any_order_of_events_gives_the_same_cidrs(steps: list[Step]) -> None:
    """What counts is what each object last said, however often it was said."""
    final: dict[str, tuple[Prefix, ...]] = {}
    for step in steps:
        if isinstance(step, ServiceCIDR):
            final[step.name] = step.cidrs
        else:
            final.pop(step, None)
    world = told(*steps)
    found = world.options.service_cidrs
    assert set(found) == {cidr for each in final.values() for cidr in each}
    assert len(set(found)) == len(found)
    assert found == told(*(ServiceCIDR(*each) for each in final.items())).options.service_cidrs
    assert world.is_empty() is not bool(final)


def test_no_service_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A8.7 is decided by address alone; ten thousand services must not wait for it."""
    world = World(options())
    world.put_service(service())
    world.replan()

    def plan(*_: object) -> list[object]:
        pytest.fail("planned")

    monkeypatch.setattr(world_module, "plan_service", plan)
    world.put_service_cidr(service_cidr_record())
    assert world.replan() == {}
    world.put_service_cidr(service_cidr_record(cidrs=["10.0.0.0/8"]))
    world.drop_service_cidr("kubernetes")
    assert world.replan() == {}


def test_a_changed_node_keeps_the_cidrs() -> None:
    """Both are parts of the options, each from objects of its own."""
    world = told(service_cidr_record(cidrs=["10.96.0.0/16"]))
    world.put_node(Node(NODE, zone="zone-b"))
    assert world.options.service_cidrs == cidrs("10.96.0.0/16")
    world.put_service_cidr(service_cidr_record(cidrs=["9.0.0.0/8"]))
    assert world.options.zone == "zone-b"
    world.drop_node(NODE)
    assert world.options.service_cidrs == cidrs("9.0.0.0/8")


def test_whoever_compares_options_sees_a_change() -> None:
    """The same objects again are equal options, others are not."""
    world = told(service_cidr_record())
    before: Options = world.options
    world.put_service_cidr(service_cidr_record())
    world.drop_service_cidr("unknown")
    assert world.options == before
    world.put_service_cidr(service_cidr_record(cidrs=["9.0.0.0/8"]))
    assert world.options != before
