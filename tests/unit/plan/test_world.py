# SPDX-License-Identifier: Apache-2.0
"""Changes in, differences out: marked services, conflicts, nothing left behind."""

from __future__ import annotations

import itertools

import pytest

from pyproxy.kube.addresses import parse_address
from pyproxy.model import Family, Node, ObjectName, Protocol, Service, ServicePortName
from pyproxy.plan.claims import Conflict, PlanKey
from pyproxy.plan.world import World
from pyproxy.tables import FrontendKey
from tests.unit.plan.records import (
    HTTP,
    NODE,
    addresses,
    cidrs,
    endpoint,
    options,
    piece,
    service,
    texts,
)

SHARED = FrontendKey(parse_address("8.8.8.8"), 80, Protocol.TCP.value)
OLD = service("b-old", ["172.30.0.1"], external=["8.8.8.8"])
YOUNG = service("a-young", ["172.30.0.2"], external=["8.8.8.8"], created="2025-01-01T00:00:00Z")
UNDATED = service("a-undated", ["172.30.0.3"], external=["8.8.8.8"], created="")


def port_name(name: str) -> ServicePortName:
    """Return the name of port http of Service ns/<name>."""
    return ServicePortName("ns", name, "http", Protocol.TCP)


def key(name: str = "web", family: Family = Family.IPV4) -> PlanKey:
    """Return the name of the plan of port http of Service ns/<name>."""
    return PlanKey(port_name(name), family)


def owner(world: World) -> str:
    """Return which service has the shared frontend."""
    world.replan()
    (name,) = (
        plan.name.name
        for plan in world.plans.values()
        if SHARED in [frontend.key for frontend in plan.frontends]
    )
    return name


def test_only_differences_are_returned() -> None:
    """A plan that comes out the same is no change, be its service marked or not (A1.3)."""
    world = World(options())
    world.put_service(service())
    world.put_service(service("other", ["172.30.0.2"]))
    assert set(world.replan()) == {key(), key("other")}
    assert world.replan() == {}
    world.put_slice(piece(endpoint("10.0.0.1")))
    assert set(world.replan()) == {key()}
    world.put_slice(piece(endpoint("10.0.0.1")))
    world.put_slice(piece(endpoint("10.0.0.1"), name="same-again"))
    assert world.replan() == {}


def test_add_and_drop_between_replans_cancel_out() -> None:
    """A15.5: what came and went unseen is no change."""
    world = World(options())
    world.put_service(service())
    world.drop_service(ObjectName("ns", "web"))
    assert world.replan() == {}
    assert world.is_empty()


def test_slice_before_its_service_and_after() -> None:
    """A15.6: slices wait for their service, and are there when it is created again."""
    world = World(options())
    world.put_slice(piece(endpoint("10.0.0.1")))
    assert world.replan() == {}
    for _ in range(2):
        world.put_service(service())
        plan = world.replan()[key()]
        assert plan is not None
        assert texts(plan.backends) == ["10.0.0.1"]
        world.drop_service(ObjectName("ns", "web"))
        assert world.replan() == {key(): None}


def test_duplicates_do_not_depend_on_which_slice_came_first() -> None:
    """A1.12: of one ip:port in two slices the later slice by name counts, in any order."""
    first = piece(endpoint("10.0.0.1"), name="slice-1")
    second = piece(endpoint("10.0.0.1", node=NODE), name="slice-2")
    for order in ((first, second), (second, first)):
        world = World(options())
        world.put_service(service())
        for one in order:
            world.put_slice(one)
            world.replan()
        (backend,) = world.plans[key()].backends
        assert backend.node == NODE


def test_slice_that_moves_to_another_service() -> None:
    """A1.6: when a slice's service label changes, both services change."""
    world = World(options())
    world.put_service(service())
    world.put_service(service("other", ["172.30.0.2"]))
    world.put_slice(piece(endpoint("10.0.0.1")))
    world.replan()
    world.put_slice(piece(endpoint("10.0.0.1"), of="other"))
    changes = world.replan()
    assert {k.name.name: len(plan.backends) for k, plan in changes.items() if plan} == {
        "web": 0,
        "other": 1,
    }


def test_dropping_what_is_unknown_does_nothing() -> None:
    """Events are safe to see twice."""
    world = World(options())
    world.drop_service(ObjectName("ns", "web"))
    world.drop_slice(ObjectName("ns", "web-1"))
    assert world.is_empty()


def test_a_port_that_goes_takes_its_plan_along() -> None:
    """A2.8: a removed port is a plan that is gone, the others stay as they are."""
    world = World(options())
    more = service(ports=(HTTP, HTTP._replace(name="https", port=443)))
    world.put_service(more)
    world.replan()
    world.put_service(service())
    changes = world.replan()
    assert [(k.name.port, plan) for k, plan in changes.items()] == [("https", None)]


def test_zone_change_plans_every_service_again() -> None:
    """A5.5: the zone of this node's Node decides for all; other Nodes don't."""
    world = World(options(zone=""))
    world.put_service(service())
    world.put_slice(
        piece(
            *(
                endpoint(f"10.0.0.{n}", zone_hints=frozenset({zone}))
                for n, zone in enumerate(("zone-a", "zone-b"))
            )
        )
    )
    world.replan()
    world.put_node(Node("node-2", zone="zone-b"))
    assert world.replan() == {}
    world.put_node(Node(NODE, zone="zone-b"))
    plan = world.replan()[key()]
    assert plan is not None
    assert texts(plan.backends) == ["10.0.0.1"]
    world.drop_node("node-2")
    assert world.replan() == {}
    world.drop_node(NODE)
    assert len(world.replan()) == 1


def test_address_of_the_node_counts_at_once() -> None:
    """A10.3: whether ranges let the node in by its own address follows the Node object, live."""
    world = World(options())
    ranges = cidrs("192.168.7.0/24")
    world.put_service(service(balanced=["1.2.3.4"], source_ranges=ranges, type="LoadBalancer"))
    world.put_slice(piece(endpoint("10.0.0.1")))
    world.replan()
    key = next(iter(world.plans))
    assert world.plans[key].source_ranges == ranges
    world.put_node(Node(NODE, addresses("192.168.7.7"), zone="zone-a"))
    assert set(world.replan()) == {key}
    assert world.plans[key].source_ranges == tuple(sorted((*ranges, *cidrs("1.2.3.4/32"))))
    world.put_node(Node("node-9", addresses("192.168.0.2")))
    assert world.replan() == {}
    world.put_node(Node(NODE, addresses("192.168.0.2"), zone="zone-a"))
    assert world.replan()[key] is not None
    assert world.plans[key].source_ranges == ranges


def test_setting_that_plans_do_not_depend_on_changes_no_plan() -> None:
    """A changed setting plans all anew, and only differences come out."""
    world = World(options())
    world.put_service(service())
    world.replan()
    world.set_options(options(masquerade_all=True))
    assert world.replan() == {}
    assert world.options.masquerade_all


@pytest.mark.parametrize("order", list(itertools.permutations([OLD, YOUNG, UNDATED])))
def test_older_service_gets_a_shared_frontend(order: tuple[Service, ...]) -> None:
    """A2.9: by creation time, undated ones last, whatever the order; heirs follow by age."""
    world = World(options())
    for item in order:
        world.put_service(item)
        world.replan()
    assert owner(world) == "b-old"
    losers = (port_name("a-young"), port_name("a-undated"))
    assert world.conflicts() == (Conflict(SHARED, port_name("b-old"), losers),)
    world.drop_service(OLD.name)
    assert owner(world) == "a-young"
    world.drop_service(YOUNG.name)
    assert owner(world) == "a-undated"
    assert world.conflicts() == ()


def test_name_breaks_a_tie_of_age() -> None:
    """A2.9: of two services of one second the first by name wins."""
    for order in ((0, 1), (1, 0)):
        twins = [service(name, [ip], external=["8.8.8.8"]) for name, ip in PAIRS]
        world = World(options())
        for number in order:
            world.put_service(twins[number])
        assert owner(world) == "a"


PAIRS = (("a", "172.30.0.1"), ("b", "172.30.0.2"))


def test_loser_keeps_its_other_frontends_and_gets_the_lost_one_back() -> None:
    """A2.9: only the shared frontend is withheld, and only as long as the winner claims it."""
    world = World(options())
    world.put_service(YOUNG)
    world.replan()
    world.put_service(OLD)
    lost = world.replan()[key("a-young")]
    assert lost is not None
    assert [frontend.key.address for frontend in lost.frontends] == list(YOUNG.cluster_ips)
    world.put_service(OLD._replace(external_ips=()))
    back = world.replan()[key("a-young")]
    assert back is not None
    assert len(back.frontends) == 2


def test_shared_node_port_is_a_conflict_in_each_family() -> None:
    """A2.9: NodePorts clash too, once a family."""
    ports = (HTTP._replace(node_port=30080),)
    world = World(options())
    world.put_service(service("a", ["172.30.0.1", "fd00:30::1"], ports=ports))
    world.put_service(service("b", ["172.30.0.2", "fd00:30::2"], ports=ports))
    world.replan()
    assert [len(conflict.frontend.address) for conflict in world.conflicts()] == [4, 16]


def test_two_ports_of_one_service_may_clash() -> None:
    """A malformed service whose ports share a number has one winner and doesn't fail."""
    twin = HTTP._replace(name="a-twin")
    world = World(options())
    world.put_service(service(ports=(HTTP, twin)))
    world.replan()
    (conflict,) = world.conflicts()
    assert conflict.winner.port == "a-twin"
    world.drop_service(ObjectName("ns", "web"))
    world.replan()
    assert world.is_empty()


def test_winner_may_lose_by_a_new_age() -> None:
    """A service that was created again is young, and gives a shared frontend up."""
    world = World(options())
    world.put_service(OLD)
    world.put_service(YOUNG)
    assert owner(world) == "b-old"
    world.put_service(OLD._replace(created="2026-01-01T00:00:00Z"))
    assert owner(world) == "a-young"


def test_plans_hold_one_copy() -> None:
    """What is published and what is asked for are one object, or memory would double."""
    world = World(options())
    world.put_service(service(ports=(HTTP, HTTP._replace(name="https", port=443))))
    world.replan()
    world.put_slice(piece(endpoint("10.0.0.1")))
    world.replan()
    asked = [plan for plans in world._asked.values() for plan in plans]
    assert {id(plan) for plan in asked} == {id(plan) for plan in world.plans.values()}


def test_health_check_node_ports_are_listed() -> None:
    """A10.5: services that a load balancer asks about, and only those."""
    world = World(options())
    item = service(type="LoadBalancer", external_policy_local=True, health_check_node_port=30200)
    world.put_service(item)
    world.put_service(service("other", ["172.30.0.2"]))
    assert world.health_check_node_ports() == {item.name: 30200}


def test_the_uid_of_a_service_port() -> None:
    """It is the Service's of now, "" where there is none."""
    world = World(options())
    assert not world.uid_of(port_name("web"))
    world.put_service(service("web", ["172.30.0.1"])._replace(uid="11-22"))
    assert world.uid_of(port_name("web")) == "11-22"
    world.drop_service(ObjectName("ns", "web"))
    assert not world.uid_of(port_name("web"))
