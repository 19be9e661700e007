# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told: who counts, which node is eligible, where it is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.model import EndpointSlice, Family, Node, Service, family_of
from pyproxy.plan.build import plan_service
from pyproxy.plan.health import (
    TO_BE_DELETED,
    HealthCheck,
    health_check,
    is_eligible,
    local_ready_endpoints,
)
from pyproxy.plan.options import Mode, Options, health_check_addresses
from pyproxy.plan.world import World
from tests.flows.load import FlowFile, section_rows
from tests.unit.plan.records import (
    NODE,
    addresses,
    cidrs,
    endpoint,
    options,
    piece,
    service,
)
from tests.unit.plan.test_properties import MODEST, services, settings_of_node, slices

BALANCED: dict[str, Any] = {
    "type": "LoadBalancer",
    "external_policy_local": True,
    "health_check_node_port": 30200,
}


def naive_count(found: Service, pieces: list[EndpointSlice], family: Family) -> int:
    """Count as parity A11.4 says it, without a plan: ready, of this node, each address once.

    Of one address and port that stands in several slices the last counts that does not terminate.
    """
    own = [each for each in sorted(pieces, key=lambda each: each.name) if each.family is family]
    ready = set()
    for port in found.ports:
        merged = {}
        for one in own:
            for number in (p.port for p in one.ports if (p.name, p.protocol) == port[:2]):
                for each in one.endpoints:
                    if not each.terminating or (each.address, number) not in merged:
                        merged[each.address, number] = each
        ready |= {e.address for e in merged.values() if e.ready and e.node_name == NODE}
    return len(ready)


@MODEST
@given(found=services, pieces=st.lists(slices, max_size=4), chosen=settings_of_node)
def test_ready_endpoints_of_this_node_are_counted(
    found: Service, pieces: list[EndpointSlice], chosen: Options
) -> None:
    """Whatever ports, hints, policies and stand-ins there are (parity A11.4)."""
    unique = list({each.name: each for each in pieces}.values())
    in_order = sorted(unique, key=lambda each: each.name)
    counts = local_ready_endpoints(plan_service(found, in_order, chosen))
    families = {family_of(address) for address in found.cluster_ips}
    assert counts == {family: naive_count(found, in_order, family) for family in families}


def test_two_ports_of_a_pod_are_one_endpoint() -> None:
    """kube-proxy's TestHealthCheckNodePortWhenTerminating: ready ones, each address once."""
    pieces = [
        piece(
            endpoint("10.0.0.1", node=NODE),
            endpoint("10.0.0.2", node=NODE),
            endpoint("10.0.0.3", "terminating", node=NODE),
            endpoint("10.0.0.4", "unready", node=NODE),
            endpoint("10.0.0.5"),
        ),
        piece(endpoint("10.0.0.1", node=NODE), name="web-2"),
    ]
    found = health_check(service(**BALANCED), plan_service(service(), pieces, options()))
    assert found == HealthCheck(30200, {Family.IPV4: 2})


def test_terminating_endpoints_that_stand_in_do_not_count() -> None:
    """Traffic goes to them, yet load balancers are to go elsewhere (KEP-1669)."""
    plans = plan_service(
        service(balanced=("8.8.8.8",), **BALANCED),
        [piece(endpoint("10.0.0.1", "terminating", node=NODE))],
        options(),
    )
    assert plans[0].local
    assert local_ready_endpoints(plans) == {Family.IPV4: 0}


@pytest.mark.parametrize(
    "change", [{"type": "NodePort"}, {"type": "ClusterIP"}, {"external_policy_local": False}]
)
def test_only_a_balanced_service_with_local_policy_is_asked_for(change: dict[str, Any]) -> None:
    """A10.5: type LoadBalancer and externalTrafficPolicy Local."""
    assert health_check(service(**BALANCED | change), []) is None


def test_a_world_knows_whom_load_balancers_ask_for() -> None:
    """A changed port, count or node is another state; what is the same is the same object."""
    world = World(options())
    found, ready = service(**BALANCED), piece(endpoint("10.0.0.1", node=NODE))
    world.put_service(found)
    world.put_slice(ready)
    world.put_service(service("other"))
    world.replan()
    first = world.health_checks
    assert first == {found.name: HealthCheck(30200, {Family.IPV4: 1})}
    world.put_service(service("other", external=("8.8.8.8",)))
    world.put_slice(ready)
    world.replan()
    assert world.health_checks is first
    world.put_service(found._replace(health_check_node_port=30201))
    assert not world.replan(), "no plan depends on it"
    assert world.health_checks[found.name].port == 30201
    world.drop_slice(ready.name)
    world.replan()
    assert world.health_checks[found.name].endpoints == {Family.IPV4: 0}
    world.put_service(found._replace(type="NodePort"))
    world.replan()
    assert world.health_checks == {}
    for name in (found.name, service("other").name):
        world.drop_service(name)
    world.replan()
    assert world.is_empty()


@pytest.mark.parametrize(
    ("node", "eligible"),
    [
        (None, False),
        (Node("n"), True),
        (Node("n", deleting=True), False),
        (Node("n", taints=frozenset({"node.kubernetes.io/unschedulable", "x"})), True),
        (Node("n", taints=frozenset({"x", TO_BE_DELETED})), False),
    ],
)
def test_who_is_eligible(node: Node | None, *, eligible: bool) -> None:
    """Known, not going away; no other taint matters (parity A12.6)."""
    assert is_eligible(node) is eligible


def test_a_world_knows_its_node() -> None:
    """Its own, and no other; gone is gone."""
    world = World(options())
    world.put_node(Node("other"))
    assert world.node is None
    world.put_node(Node(NODE, deleting=True))
    assert world.node == Node(NODE, deleting=True)
    world.drop_node("other")
    assert world.node
    world.drop_node(NODE)
    assert world.node is None


def test_addresses_are_those_of_node_ports(flow_file: FlowFile) -> None:
    """kube-proxy's TestGetNodeIPs: all zeros where all count, else what interfaces have (A11.6)."""
    for row in section_rows(flow_file.path, "nodeport_addresses"):
        own = addresses(*(each.partition("/")[0] for each in row["ifaces"]))
        chosen = options(node_port_addresses=cidrs(*row["cidrs"]))
        for family, key in ((Family.IPV4, "v4"), (Family.IPV6, "v6")):
            got = health_check_addresses(family, chosen, own)
            wanted = row[key]
            everywhere = (bytes(family.address_bytes),)
            assert got == (everywhere if wanted == "all" else tuple(sorted(addresses(*wanted))))


def test_primary_is_the_nodes_own_address() -> None:
    """Nftables mode serves there by default; a family without one is served everywhere (A7.2)."""
    own = addresses("192.168.0.2", "127.0.0.1", "10.9.9.9", "2001:db8::2")
    chosen = options(
        mode=Mode.NFTABLES, node_ports_on_primary=True, node_ips=addresses("192.168.0.2")
    )
    assert health_check_addresses(Family.IPV4, chosen, own) == addresses("192.168.0.2")
    assert health_check_addresses(Family.IPV6, chosen, own) == (bytes(16),)
