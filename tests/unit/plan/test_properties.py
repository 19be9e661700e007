# SPDX-License-Identifier: Apache-2.0
"""What holds for any objects in any order, and for any decision."""

from __future__ import annotations

import random
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.model import (
    Endpoint,
    EndpointSlice,
    Family,
    Node,
    ObjectName,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
)
from pyproxy.plan.build import plan_service
from pyproxy.plan.claims import PlanKey
from pyproxy.plan.connection import Connection, Decision, Verdict
from pyproxy.plan.decide import decide, tables_of
from pyproxy.plan.options import Mode, Options
from pyproxy.plan.world import World
from pyproxy.tables import Kind, PortPlan
from tests.unit.plan.records import NODE, addresses, cidrs, options

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SERVICES = [ObjectName("ns", name) for name in ("a", "b", "c")]
SLICES = [ObjectName("ns", f"slice-{number}") for number in range(4)]
CLUSTER_IPS = [addresses("172.30.0.1"), addresses("172.30.0.2", "fd00:30::2"), addresses("fd00::3")]
SHARED = addresses("8.8.8.8", "9.9.9.9", "2001:db8::8")
SOURCES = addresses("10.0.0.1", "10.0.0.9", "203.0.113.2", "192.168.0.2", "127.0.0.1", "8.8.8.8")

protocols = st.sampled_from([Protocol.TCP, Protocol.UDP])
some_shared = st.lists(st.sampled_from(SHARED), max_size=2).map(tuple)
hints = st.sampled_from([frozenset[str](), frozenset({"zone-a"}), frozenset({"zone-b", NODE})])
ports = st.builds(
    ServicePort, st.sampled_from(["", "http"]), protocols, st.just(80), st.sampled_from([0, 30080])
)
services = st.builds(
    Service,
    name=st.sampled_from(SERVICES),
    created=st.sampled_from(["", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
    type=st.just("LoadBalancer"),
    cluster_ips=st.sampled_from(CLUSTER_IPS),
    ports=st.lists(ports, min_size=1, max_size=2).map(tuple),
    external_ips=some_shared,
    load_balancer_ips=some_shared,
    source_ranges=st.sampled_from([(), cidrs("203.0.113.0/24"), cidrs("192.168.0.0/16")]),
    internal_policy_local=st.booleans(),
    external_policy_local=st.booleans(),
)
endpoints = st.builds(
    Endpoint,
    st.sampled_from(addresses("10.0.0.1", "10.0.0.2", "10.0.0.3")),
    st.sampled_from(["", NODE, "node-2"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    hints,
    hints,
)
slice_ports = st.builds(
    SlicePort, st.sampled_from(["", "http"]), protocols, st.sampled_from([8080, 81])
)
slices = st.builds(
    EndpointSlice,
    st.sampled_from(SLICES),
    st.sampled_from(SERVICES),
    st.sampled_from(Family),
    st.lists(slice_ports, max_size=2).map(tuple),
    st.lists(endpoints, max_size=3).map(tuple),
)
settings_of_node = st.builds(
    lambda zone, mode: options(zone=zone, mode=mode),
    st.sampled_from(["", "zone-a", "zone-b"]),
    st.sampled_from(Mode),
)


events = st.lists(
    st.one_of(
        services,
        slices,
        st.sampled_from(SERVICES + SLICES),
        st.builds(Node, st.just(NODE), zone=st.sampled_from(["zone-a", "zone-b"])),
        st.none(),
    ),
    max_size=25,
)


class Final(NamedTuple):
    """What is left after events, told without a World."""

    services: dict[ObjectName, Service]
    slices: dict[ObjectName, EndpointSlice]
    nodes: dict[str, Node]


def play(script: list[object], world: World, final: Final) -> dict[PlanKey, PortPlan]:
    """Feed events to a world; None is a replan. Return the plans as its reader sees them."""
    seen: dict[PlanKey, PortPlan] = {}
    for event in [*script, None]:
        if isinstance(event, Service):
            world.put_service(event)
            final.services[event.name] = event
        elif isinstance(event, EndpointSlice):
            world.put_slice(event)
            final.slices[event.name] = event
        elif isinstance(event, Node):
            world.put_node(event)
            final.nodes[event.name] = event
        elif isinstance(event, ObjectName):
            world.drop_service(event)
            world.drop_slice(event)
            final.services.pop(event, None)
            final.slices.pop(event, None)
        else:
            follow(world, seen)
    return seen


def follow(world: World, seen: dict[PlanKey, PortPlan]) -> None:
    """Take a replan's changes over, and check that each is one."""
    for key, plan in world.replan().items():
        assert seen.get(key) != plan
        if plan is None:
            del seen[key]
        else:
            seen[key] = plan


def fresh(final: Final) -> World:
    """Return a world that was told the final state in one go."""
    world = World(options())
    for node in final.nodes.values():
        world.put_node(node)
    for piece in final.slices.values():
        world.put_slice(piece)
    for service in final.services.values():
        world.put_service(service)
    world.replan()
    return world


@MODEST
@given(script=events)
def test_any_order_of_events_gives_the_same_plans(script: list[object]) -> None:
    """However the state was reached, the plans are those of the state alone."""
    world, final = World(options()), Final({}, {}, {})
    seen = play(script, world, final)
    other = fresh(final)
    assert seen == world.plans == other.plans
    assert world.conflicts() == other.conflicts()


@MODEST
@given(script=events, draw=st.randoms())
def test_removing_everything_leaves_nothing(script: list[object], draw: random.Random) -> None:
    """When all objects are gone, in any order, no plan, claim or key is kept."""
    world, final = World(options()), Final({}, {}, {})
    seen = play(script, world, final)
    names = [*final.services, *final.slices]
    draw.shuffle(names)
    for name in names:
        world.drop_service(name)
        world.drop_slice(name)
    follow(world, seen)
    assert seen == {}
    assert world.is_empty()


@MODEST
@given(script=st.lists(services, max_size=6))
def test_a_frontend_has_one_owner(script: list[Service]) -> None:
    """No two plans have one frontend, and each that is claimed is had by someone."""
    final = Final({service.name: service for service in script}, {}, {})
    world = fresh(final)
    had = [frontend.key for plan in world.plans.values() for frontend in plan.frontends]
    claimed = {
        frontend.key
        for service in final.services.values()
        for plan in plan_service(service, [], options())
        for frontend in plan.frontends
    }
    assert sorted(had) == sorted(claimed)


@MODEST
@given(service=services, pieces=st.lists(slices, max_size=4), chosen=settings_of_node)
def test_plan_is_well_formed(
    service: Service, pieces: list[EndpointSlice], chosen: Options
) -> None:
    """The two sets cover the backends, nothing stands twice, and every backend is a member."""
    for plan in plan_service(service, pieces, chosen):
        assert set(plan.local) | set(plan.cluster) == set(plan.backends)
        assert len(set(plan.backends)) == len(plan.backends)
        assert len({frontend.key for frontend in plan.frontends}) == len(plan.frontends)
        members = {(member.address, member.port) for member in plan.members}
        assert {(backend.address, backend.port) for backend in plan.backends} <= members
        assert all(len(f.key.address) == plan.family.address_bytes for f in plan.frontends)


class Situation(NamedTuple):
    """One service on one node, and a connection to one of its frontends."""

    service: Service
    pieces: list[EndpointSlice]
    options: Options
    source: bytes
    frontend: int

    def plan(self) -> PortPlan:
        """Return the service's first plan of IPv4."""
        return plan_service(self.service, self.pieces, self.options)[0]

    def kind(self) -> Kind:
        """Return which kind of frontend is dialled."""
        frontends = self.plan().frontends
        return frontends[self.frontend % len(frontends)].kind

    def decision(self) -> Decision:
        """Decide; a NodePort is dialled on the node's address."""
        frontends = self.plan().frontends
        key = frontends[self.frontend % len(frontends)].key
        address = key.address if any(key.address) else addresses("192.168.0.2")[0]
        connection = Connection(self.source, address, key.port, key.protocol)
        return decide(connection, tables_of([self.plan()]), self.options)


situations = st.builds(
    Situation,
    services.map(lambda service: service._replace(cluster_ips=CLUSTER_IPS[0])),
    st.lists(slices, max_size=3),
    settings_of_node,
    st.sampled_from(SOURCES),
    st.integers(0, 9),
)


@MODEST
@given(situation=situations)
def test_internal_policy_governs_cluster_ips_only(situation: Situation) -> None:
    """A4.4: changing internalTrafficPolicy changes no decision about an external address."""
    service = situation.service
    flipped = service._replace(internal_policy_local=not service.internal_policy_local)
    if situation.kind() is not Kind.CLUSTER_IP:
        before, after = situation.decision(), situation._replace(service=flipped).decision()
        assert before[0] == after[0]
        assert sorted(before.backends) == sorted(after.backends)
        assert before.masquerade == after.masquerade


@MODEST
@given(situation=situations)
def test_external_policy_never_governs_cluster_ips(situation: Situation) -> None:
    """A4.5: changing externalTrafficPolicy changes no decision about a ClusterIP."""
    service = situation.service
    flipped = service._replace(external_policy_local=not service.external_policy_local)
    if situation.kind() is Kind.CLUSTER_IP:
        before, after = situation.decision(), situation._replace(service=flipped).decision()
        assert (before.verdict, before.masquerade) == (after.verdict, after.masquerade)
        assert set(before.backends) == set(after.backends)


@MODEST
@given(situation=situations)
def test_masquerade_all_touches_nothing_but_the_source(situation: Situation) -> None:
    """A9.1: masqueradeAll masquerades every ClusterIP connection and changes nothing else."""
    chosen = situation.options._replace(masquerade_all=True)
    before, after = situation.decision(), situation._replace(options=chosen).decision()
    assert (before.verdict, before.backends) == (after.verdict, after.backends)
    forwards_cluster_ip = before.verdict is Verdict.FORWARD and situation.kind() is Kind.CLUSTER_IP
    assert after.masquerade is (True if forwards_cluster_ip else before.masquerade)


@MODEST
@given(situation=situations)
def test_forward_has_backends_and_refusals_have_none(situation: Situation) -> None:
    """Whoever is forwarded has somebody to go to, of the set that the policy allows."""
    decision = situation.decision()
    assert (decision.verdict is Verdict.FORWARD) is bool(decision.backends)
    plan = situation.plan()
    assert decision.backends in {(), plan.local, plan.cluster}
    assert all(backend.address == situation.source for backend in decision.hairpins)


@MODEST
@given(situation=situations)
def test_without_endpoints_nobody_is_forwarded(situation: Situation) -> None:
    """A8.1: with all slices gone the verdict is REJECT, or what a filter or hook makes of it."""
    decision = situation._replace(pieces=[]).decision()
    assert decision.verdict in {Verdict.REJECT, Verdict.DROP, Verdict.PASS}
    if situation.kind() is Kind.CLUSTER_IP:
        assert decision.verdict is Verdict.REJECT
