# SPDX-License-Identifier: Apache-2.0
"""Plans of one service: frontends, order of backends, members (parity A1, A2, A4, A10)."""

from __future__ import annotations

import pytest

from pyproxy.model import EndpointSlice, Family, Protocol, Service, ServicePort, SlicePort
from pyproxy.plan.build import plan_service
from pyproxy.plan.frontends import health_check_node_port
from pyproxy.plan.options import Mode
from pyproxy.tables import BackendFlag, Kind, PortPlan, ServiceFlag
from tests.unit.plan.records import HTTP, NODE, cidrs, endpoint, options, piece, service, texts

NODE_PORT = ServicePort("http", Protocol.TCP, 80, 30080)


def only_plan(item: Service, *slices: EndpointSlice, **changes: object) -> PortPlan:
    """Return the one plan of a service."""
    (plan,) = plan_service(item, slices, options(**changes))
    return plan


def shown(plan: PortPlan) -> list[tuple[str, str, int]]:
    """Return a plan's frontends as kind, address, port."""
    return [(f.kind.name, f.key.address.hex("."), f.key.port) for f in plan.frontends]


def test_every_kind_of_address_is_a_frontend() -> None:
    """A2.1-A2.5: VIPs answer on the service port, the NodePort on its own with any address."""
    item = service(external=["8.8.8.8"], balanced=["1.2.3.4"], ports=(NODE_PORT,))
    assert shown(only_plan(item)) == [
        ("CLUSTER_IP", "ac.1e.00.01", 80),
        ("EXTERNAL_IP", "08.08.08.08", 80),
        ("LOAD_BALANCER", "01.02.03.04", 80),
        ("NODE_PORT", "00.00.00.00", 30080),
    ]


def test_no_node_port_is_no_frontend() -> None:
    """A2.4: allocateLoadBalancerNodePorts false leaves 0, which is no NodePort."""
    item = service(balanced=["1.2.3.4"], type="LoadBalancer", external_policy_local=True)
    assert [kind for kind, *_ in shown(only_plan(item))] == ["CLUSTER_IP", "LOAD_BALANCER"]


def test_repeated_addresses_are_one_frontend() -> None:
    """A2.2: an address listed twice is harmless."""
    item = service(external=["8.8.8.8", "8.8.8.8", "172.30.0.1"])
    assert [kind for kind, *_ in shown(only_plan(item))] == ["CLUSTER_IP", "EXTERNAL_IP"]


def test_shared_external_and_balancer_address_filters_as_the_mode_does() -> None:
    """An address that is both is filtered by source ranges in nftables mode only."""
    item = service(external=["1.2.3.4"], balanced=["1.2.3.4"])
    assert only_plan(item).frontends[1].kind is Kind.EXTERNAL_IP
    assert only_plan(item, mode=Mode.NFTABLES).frontends[1].kind is Kind.LOAD_BALANCER


@pytest.mark.parametrize(
    ("port", "target", "pods", "bindable"),
    [
        (80, 0, 8080, False),
        (80, 8080, 8080, False),
        (80, 30080, None, True),  # before there is an endpoint
        (80, 0, 30080, True),  # by name
        (30080, 0, None, True),
        (30080, 8080, 8080, False),
    ],
)
def test_servers_on_the_host_network_may_bind_their_own_node_port(
    port: int, target: int, pods: int | None, bindable: bool
) -> None:
    """Where pods' ports are the NodePort, those with the node's addresses listen on it."""
    item = service(ports=(ServicePort("http", Protocol.TCP, port, 30080, target),))
    ports = (SlicePort("http", Protocol.TCP, pods),) if pods else ()
    found = {
        each.kind: each.bindable
        for each in only_plan(item, piece(endpoint("10.0.0.1", "unready"), ports=ports)).frontends
    }
    assert found == {Kind.CLUSTER_IP: False, Kind.NODE_PORT: bindable}


def test_all_zero_vip_claims_no_node_port() -> None:
    """An externalIP 0.0.0.0 would be a NodePort on the service port; it is left out."""
    assert len(only_plan(service(external=["0.0.0.0"])).frontends) == 1


def test_gate_switches_external_ips_off() -> None:
    """A2.2: without AllowServiceExternalIPs none is programmed, yet the port counts as external."""
    item = service(external=["8.8.8.8"], external_policy_local=True)
    plan = only_plan(item, allow_service_external_ips=False)
    assert [kind for kind, *_ in shown(plan)] == ["CLUSTER_IP"]
    assert ServiceFlag.EXTERNAL_LOCAL in plan.flags


def test_families_are_planned_apart() -> None:
    """A3.2: a plan a family, each with the addresses and endpoints of its own."""
    four, six = plan_service(
        service(ips=["172.30.0.1", "fd00:30::1"], external=["8.8.8.8"], ports=(NODE_PORT,)),
        [piece(endpoint("10.0.0.1")), piece(endpoint("fd00::1"), family=Family.IPV6)],
        options(),
    )
    assert (four.family, texts(four.backends)) == (Family.IPV4, ["10.0.0.1"])
    assert (six.family, texts(six.backends)) == (Family.IPV6, ["fd00::1"])
    assert [f.key.address for f in six.frontends][-1] == bytes(16)
    assert len(six.frontends) == 2


def test_family_without_cluster_ip_is_not_planned() -> None:
    """A1.4: external addresses alone don't make a family."""
    item = service(external=["2001:db8::8"])
    assert [plan.family for plan in plan_service(item, [], options())] == [Family.IPV4]


def test_ports_of_one_name_and_protocol() -> None:
    """A1.5: of two ports that share name and protocol the later counts, and nothing breaks."""
    item = service(ports=(HTTP, HTTP._replace(port=81)))
    assert [port for *_, port in shown(only_plan(item))] == [81]


def test_ports_of_one_name_and_two_protocols() -> None:
    """A1.5: the protocol is part of a port's identity."""
    item = service(ports=(HTTP, HTTP._replace(protocol=Protocol.UDP)))
    plans = plan_service(item, [piece(endpoint("10.0.0.1"))], options())
    assert [len(plan.backends) for plan in plans] == [1, 0]


def test_backends_stand_local_only_both_cluster_only() -> None:
    """Rule 16: each set is one run of the backends, though neither holds the other."""
    zone_b = frozenset({"zone-b"})
    zone_a = frozenset({"zone-a"})
    plan = only_plan(
        service(ports=(NODE_PORT,), external_policy_local=True),
        piece(
            endpoint("10.0.0.1", node=NODE, zone_hints=zone_a),
            endpoint("10.0.0.2", node="node-2", zone_hints=zone_a),
            endpoint("10.0.0.3", node=NODE, zone_hints=zone_b),
        ),
    )
    assert texts(plan.backends) == ["10.0.0.3", "10.0.0.1", "10.0.0.2"]
    assert texts(plan.local) == ["10.0.0.3", "10.0.0.1"]
    assert texts(plan.cluster) == ["10.0.0.1", "10.0.0.2"]


def test_external_policy_counts_with_external_exposure_only() -> None:
    """A4.5: for a port that nothing external leads to, externalTrafficPolicy changes nothing."""
    slices = piece(endpoint("10.0.0.1", node=NODE))
    inside = only_plan(service(external_policy_local=True), slices)
    outside = only_plan(service(external_policy_local=True, ports=(NODE_PORT,)), slices)
    assert ServiceFlag.EXTERNAL_LOCAL not in inside.flags
    assert inside.local_count == 0
    assert ServiceFlag.EXTERNAL_LOCAL in outside.flags
    assert outside.local_count == 1


@pytest.mark.parametrize("node", [NODE, "node-2"])
def test_whether_a_backend_is_on_this_node_is_said_of_the_service(node: str) -> None:
    """By any policy: connected sockets of bridged pods are left to packets then."""
    plan = only_plan(service(), piece(endpoint("10.0.0.1", node=node)))
    assert (ServiceFlag.HAS_LOCAL in plan.flags) == (node == NODE)


def test_internal_policy_local_without_exposure_has_no_cluster_set() -> None:
    """A4.1: nothing can use the Cluster set of an internal Local port."""
    plan = only_plan(service(internal_policy_local=True), piece(endpoint("10.0.0.1")))
    assert (plan.backends, plan.cluster_count) == ((), 0)
    assert plan.flags == ServiceFlag.INTERNAL_LOCAL | ServiceFlag.HAS_ENDPOINTS


def test_members_are_ready_or_serving() -> None:
    """Rule 18: who may keep a connection is a member, used for new ones or not."""
    plan = only_plan(
        service(),
        piece(
            endpoint("10.0.0.1"),
            endpoint("10.0.0.2", "terminating"),
            endpoint("10.0.0.3", "serving"),
            endpoint("10.0.0.4", "unready"),
            endpoint("10.0.0.5", "dead"),
        ),
    )
    assert [member.address[3] for member in plan.members] == [1, 2, 3]
    assert texts(plan.backends) == ["10.0.0.1"]


def test_members_say_which_sets_they_are_in() -> None:
    """A6.3: what a client had is used again only if it is in the set that applies."""
    plan = only_plan(
        service(external=["1.2.3.4"], external_policy_local=True),
        piece(
            endpoint("10.0.0.1", node=NODE),
            endpoint("10.0.0.2", node="other"),
            endpoint("10.0.0.3", "terminating", node=NODE),
        ),
    )
    both = BackendFlag.IN_LOCAL | BackendFlag.IN_CLUSTER
    assert [member.flags & both for member in plan.members] == [both, BackendFlag.IN_CLUSTER, 0]


def test_source_ranges_are_of_the_family() -> None:
    """A10.2: ranges of the other family, a /0 among them or no balancer address: no filter."""
    four = cidrs("203.0.113.0/25")
    ranges = {
        four + cidrs("2600::/32"): four,
        cidrs("2600::/32"): (),
        four + cidrs("0.0.0.0/0"): (),
        four + cidrs("::/0"): four,
    }
    ready = piece(endpoint("10.0.0.1"))
    for given, kept in ranges.items():
        asked = service(balanced=["1.2.3.4"], source_ranges=given)
        assert only_plan(asked, ready).source_ranges == kept
    assert only_plan(service(source_ranges=four), ready).source_ranges == ()


def test_a_node_that_is_let_in_is_so_by_an_address_of_the_balancer() -> None:
    """A10.3: it speaks with that when it has the address itself."""
    asked = service(balanced=["1.2.3.4"], source_ranges=cidrs("203.0.113.0/25"))
    ready = piece(endpoint("10.0.0.1"))
    for node_ip, more in (("203.0.113.9", cidrs("1.2.3.4/32")), ("203.0.113.200", ())):
        (own,) = cidrs(f"{node_ip}/32")
        here = options(node_ips=(own.address,))
        (plan,) = plan_service(asked, (ready,), here)
        assert set(plan.source_ranges) == {*cidrs("203.0.113.0/25"), *more}


def test_without_endpoints_sources_are_asked_for_in_nftables_mode_alone() -> None:
    """A8.8: iptables mode refuses everybody then."""
    asked = service(balanced=["1.2.3.4"], source_ranges=cidrs("203.0.113.0/25"))
    for mode in Mode:
        (plan,) = plan_service(asked, (), options(mode=mode))
        assert bool(plan.source_ranges) is (mode is Mode.NFTABLES)


def test_health_check_needs_balancer_and_local_policy() -> None:
    """A10.5: the health check port counts for type LoadBalancer with Local policy only."""
    item = service(type="LoadBalancer", external_policy_local=True, health_check_node_port=30200)
    assert health_check_node_port(item) == 30200
    assert health_check_node_port(item._replace(type="NodePort")) == 0
    assert health_check_node_port(item._replace(external_policy_local=False)) == 0
