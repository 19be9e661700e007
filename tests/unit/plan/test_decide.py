# SPDX-License-Identifier: Apache-2.0
"""Rules of the decision that kube-proxy's packet cases leave open (parity A2.6, A7-A10)."""

from __future__ import annotations

from typing import Any

import pytest

from pyproxy.kube.addresses import parse_address
from pyproxy.model import EndpointSlice, Protocol, Service
from pyproxy.plan.build import plan_service
from pyproxy.plan.connection import Connection, Decision, Verdict
from pyproxy.plan.decide import decide, tables_of
from pyproxy.plan.options import DetectLocalMode, Mode, Options
from tests.unit.plan.records import HTTP, NODE, cidrs, endpoint, options, piece, service, texts

POD, CLIENT, OWN, VIP = "10.0.0.9", "203.0.113.2", "192.168.0.2", "1.2.3.4"
NODE_PORT = (HTTP._replace(node_port=30080),)
REMOTE = piece(endpoint("10.1.0.1"))
BOTH = piece(endpoint("10.1.0.1"), endpoint("10.2.0.1", node=NODE))


def dial(
    source: str,
    destination: str,
    port: int,
    *slices: EndpointSlice,
    to: Service,
    protocol: Protocol = Protocol.TCP,
    interface: str = "",
    **changes: Any,
) -> Decision:
    """Decide about a connection where `to` is the only service."""
    here: Options = options(**changes)
    tables = tables_of(plan_service(to, slices, here), [30200])
    connection = Connection(
        parse_address(source), parse_address(destination), port, protocol, interface
    )
    return decide(connection, tables, here)


def verdict(*args: Any, **kwargs: Any) -> Verdict:
    """Return the verdict alone."""
    return dial(*args, **kwargs).verdict


def test_vip_comes_before_node_port() -> None:
    """A2.6: an externalIP that is a node address wins over a NodePort of that number."""
    tables = tables_of(
        [
            *plan_service(
                service(external=[OWN], ports=(HTTP._replace(port=30080),)), [], options()
            ),
            *plan_service(
                service("other", ["172.30.0.2"], ports=NODE_PORT),
                [piece(endpoint("10.1.0.1"))],
                options(),
            ),
        ]
    )
    connection = Connection(parse_address(CLIENT), parse_address(OWN), 30080, 6)
    assert decide(connection, tables, options()).verdict is Verdict.REJECT
    elsewhere = options(local_addresses=frozenset({parse_address("192.168.1.2")}))
    other = connection._replace(destination=parse_address("192.168.1.2"))
    assert decide(other, tables, elsewhere).verdict is Verdict.FORWARD


def test_nobody_dials_the_wildcard() -> None:
    """A2.5: the NodePort's address of zeros is no destination of its own."""
    assert verdict(CLIENT, "0.0.0.0", 30080, REMOTE, to=service(ports=NODE_PORT)) is Verdict.PASS


def test_unselected_address_refuses_where_no_endpoint_is() -> None:
    """A7.6: iptables refuses an endpointless NodePort on every local address; nftables doesn't."""
    closed = cidrs("10.99.0.0/16")
    for mode, expected in ((Mode.IPTABLES, Verdict.REJECT), (Mode.NFTABLES, Verdict.PASS)):
        how: dict[str, Any] = {
            "mode": mode,
            "node_port_addresses": closed,
            "to": service(ports=NODE_PORT),
        }
        assert verdict(CLIENT, OWN, 30080, **how) is expected
        assert verdict(CLIENT, OWN, 30080, REMOTE, **how) is Verdict.PASS


def test_unselected_address_drops_pods_too() -> None:
    """A7.6: with Local policy the DROP meets pods as well, since nothing translates there."""
    item = service(type="NodePort", ports=NODE_PORT, external_policy_local=True)
    closed = cidrs("10.99.0.0/16")
    assert verdict(POD, OWN, 30080, REMOTE, to=item, node_port_addresses=closed) is Verdict.DROP
    assert verdict(POD, OWN, 30080, REMOTE, to=item) is Verdict.FORWARD


@pytest.mark.parametrize("family_vip", [VIP, "8.8.8.8"])
def test_node_process_is_not_refused_for_an_unowned_vip(family_vip: str) -> None:
    """A8.5: iptables has no verdict for external addresses in OUTPUT; nftables has."""
    item = service(balanced=[VIP], external=["8.8.8.8"])
    assert verdict(OWN, family_vip, 80, to=item) is Verdict.PASS
    assert verdict(CLIENT, family_vip, 80, to=item) is Verdict.REJECT
    assert verdict(OWN, family_vip, 80, to=item, mode=Mode.NFTABLES) is Verdict.REJECT


def test_node_process_is_refused_for_a_vip_of_its_own() -> None:
    """A8.5: an address that the node has leads through INPUT, where iptables refuses."""
    item = service(external=[OWN])
    assert verdict(OWN, OWN, 80, to=item) is Verdict.REJECT
    assert verdict("127.0.0.1", OWN, 80, to=item) is Verdict.REJECT


def test_cluster_ip_on_a_local_device_is_not_refused_in_input() -> None:
    """A8.5: iptables refuses ClusterIPs in FORWARD and OUTPUT, nftables in INPUT as well."""
    has_it = frozenset({parse_address("172.30.0.1")})
    here: dict[str, Any] = {"to": service(), "local_addresses": has_it}
    assert verdict(POD, "172.30.0.1", 80, **here) is Verdict.PASS
    assert verdict("172.30.0.1", "172.30.0.1", 80, **here) is Verdict.REJECT
    assert verdict(POD, "172.30.0.1", 80, **here, mode=Mode.NFTABLES) is Verdict.REJECT


def test_nftables_refuses_by_address_unless_it_only_arrives() -> None:
    """A8.6, A8.7: unknown ports and unallocated addresses, in forward and output only."""
    here: dict[str, Any] = {
        "to": service(),
        "mode": Mode.NFTABLES,
        "service_cidrs": cidrs("172.30.0.0/16"),
    }
    assert verdict(POD, "172.30.0.1", 81, REMOTE, **here) is Verdict.REJECT
    assert verdict(POD, "172.30.9.9", 80, REMOTE, **here) is Verdict.DROP
    bound = frozenset({parse_address("172.30.0.1")})
    assert verdict(POD, "172.30.0.1", 81, **here, local_addresses=bound) is Verdict.PASS


def test_health_check_port_is_let_in() -> None:
    """A11: iptables accepts TCP to a health check node port on the node's own addresses."""
    item = service()
    assert verdict(CLIENT, OWN, 30200, to=item) is Verdict.ACCEPT
    assert verdict(CLIENT, OWN, 30200, to=item, protocol=Protocol.UDP) is Verdict.PASS
    assert verdict(CLIENT, VIP, 30200, to=item) is Verdict.PASS
    assert verdict(CLIENT, OWN, 30200, to=item, mode=Mode.NFTABLES) is Verdict.PASS


def test_hairpin_is_per_backend() -> None:
    """A9.9: only the backend that is the client itself needs another source."""
    decision = dial("10.2.0.1", "172.30.0.1", 80, BOTH, to=service())
    assert texts(decision.hairpins) == ["10.2.0.1"]
    assert [decision.masquerades(b) for b in decision.backends] == [False, True]


def test_nftables_knows_hairpins_of_local_endpoints_only() -> None:
    """A9.9: the set of nftables holds local endpoints."""
    here: dict[str, Any] = {"to": service(), "mode": Mode.NFTABLES}
    assert dial("10.2.0.1", "172.30.0.1", 80, BOTH, **here).hairpins
    assert not dial("10.1.0.1", "172.30.0.1", 80, BOTH, **here).hairpins


def test_first_cidr_of_a_family_detects() -> None:
    """A9.14: of two CIDRs of one family the first counts; a family without one has none."""
    two = cidrs("10.1.0.0/16", "10.0.0.0/16")
    assert dial(POD, "172.30.0.1", 80, REMOTE, to=service(), local_cidrs=two).masquerade
    six = cidrs("fd00::/64")
    assert not dial(CLIENT, "172.30.0.1", 80, REMOTE, to=service(), local_cidrs=six).masquerade


@pytest.mark.parametrize(
    ("mode", "name", "interface", "is_pod"),
    [
        (DetectLocalMode.BRIDGE_INTERFACE, "cni0", "cni0", True),
        (DetectLocalMode.BRIDGE_INTERFACE, "cni0", "cni01", False),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "veth", "veth1", True),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "veth", "eth0", False),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "veth", "", False),
    ],
)
def test_interfaces_detect_pods(
    mode: DetectLocalMode, name: str, interface: str, *, is_pod: bool
) -> None:
    """A9.14: by bridge or name prefix of the input device; the node's own packets have none."""
    how: dict[str, Any] = {
        "detect_local_mode": mode,
        "local_interface": name,
        "interface": interface,
    }
    decision = dial(CLIENT, "172.30.0.1", 80, REMOTE, to=service(), **how)
    assert decision.masquerade is not is_pod


def test_interface_mode_without_a_name_detects_nothing() -> None:
    """A9.14: a missing setting is no detector, so nothing is masqueraded for it."""
    how: dict[str, Any] = {
        "detect_local_mode": DetectLocalMode.BRIDGE_INTERFACE,
        "interface": "eth0",
    }
    assert not dial(CLIENT, "172.30.0.1", 80, REMOTE, to=service(), **how).masquerade


def test_local_policy_for_pods_without_detector() -> None:
    """A9.6: where pods can't be told apart they get the local endpoints, as anyone."""
    item = service(balanced=[VIP], type="LoadBalancer", external_policy_local=True)
    assert len(dial(POD, VIP, 80, BOTH, to=item).backends) == 2
    decision = dial(POD, VIP, 80, BOTH, to=item, local_cidrs=())
    assert (texts(decision.backends), decision.masquerade) == (["10.2.0.1"], False)
    assert verdict(POD, VIP, 80, REMOTE, to=item, local_cidrs=()) is Verdict.DROP


def test_source_ranges_without_endpoints() -> None:
    """A8.8: iptables rejects everybody; nftables drops who isn't admitted first."""
    item = service(balanced=[VIP], source_ranges=cidrs("203.0.113.0/25"))
    assert verdict("203.0.113.200", VIP, 80, to=item) is Verdict.REJECT
    assert verdict("203.0.113.200", VIP, 80, to=item, mode=Mode.NFTABLES) is Verdict.DROP
    assert verdict(CLIENT, VIP, 80, to=item, mode=Mode.NFTABLES) is Verdict.REJECT


def test_node_exception_needs_the_node_in_range() -> None:
    """A10.3: a source that is one of the service's VIPs is admitted with the node only."""
    for ranges, expected in (
        (cidrs("192.168.0.0/24"), Verdict.FORWARD),
        (cidrs("192.168.7.0/24"), Verdict.DROP),
    ):
        item = service(balanced=[VIP, "1.2.3.5"], source_ranges=ranges)
        assert verdict("1.2.3.5", VIP, 80, REMOTE, to=item) is expected


def test_node_exception_is_for_balancer_addresses() -> None:
    """A10.3: another address of the service as source is admitted by its range alone."""
    item = service(balanced=[VIP], external=["8.8.8.8"], source_ranges=cidrs("192.168.0.0/24"))
    assert verdict("8.8.8.8", VIP, 80, REMOTE, to=item) is Verdict.DROP
    assert verdict(VIP, VIP, 80, REMOTE, to=item) is Verdict.FORWARD


def test_ranges_do_not_filter_other_frontends() -> None:
    """A7.7, A10.1: ClusterIP, externalIP and NodePort know no source ranges."""
    item = service(
        balanced=[VIP], external=["8.8.8.8"], ports=NODE_PORT, source_ranges=cidrs("1.1.1.1/32")
    )
    assert verdict(CLIENT, VIP, 80, REMOTE, to=item) is Verdict.DROP
    for address, port in (("172.30.0.1", 80), ("8.8.8.8", 80), (OWN, 30080)):
        assert verdict(CLIENT, address, port, REMOTE, to=item) is Verdict.FORWARD
