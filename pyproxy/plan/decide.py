# SPDX-License-Identifier: Apache-2.0
"""What becomes of a new connection: the datapath's decision, as a model.

It reads plans and options alone, as the C programs read maps alone. It says what kube-proxy
does in the mode of the options, for the first packet of a connection (parity A8.4); session
affinity (A6) is not part of it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from pyproxy.model import Address, Protocol, family_of
from pyproxy.plan.cidr import in_any
from pyproxy.plan.connection import Connection, Decision, Verdict
from pyproxy.plan.frontends import NODE_PORT_ADDRESS
from pyproxy.plan.local_detector import has_detector, is_pod
from pyproxy.plan.options import Mode, Options, is_local, is_node_port_address
from pyproxy.tables import Backend, BackendFlag, FrontendKey, Kind, PortPlan, ServiceFlag


class Match(NamedTuple):
    """Which plan a connection is for, and by which kind of frontend."""

    kind: Kind
    plan: PortPlan


class Tables(NamedTuple):
    """The plans in the form in which they are looked up."""

    frontends: dict[FrontendKey, Match]
    cluster_ips: frozenset[Address]
    health_check_node_ports: frozenset[int]


class Hook(enum.Enum):
    """Where the kernel filters a packet: netfilter's names."""

    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"


_ALL_HOOKS = frozenset(Hook)
_EXTERNAL_HOOKS = frozenset({Hook.INPUT, Hook.FORWARD})
# Where REJECT and DROP for want of endpoints are in force (parity A8.5).
_FILTER_HOOKS = {
    (Mode.IPTABLES, Kind.CLUSTER_IP): frozenset({Hook.FORWARD, Hook.OUTPUT}),
    (Mode.IPTABLES, Kind.EXTERNAL_IP): _EXTERNAL_HOOKS,
    (Mode.IPTABLES, Kind.LOAD_BALANCER): _EXTERNAL_HOOKS,
    (Mode.IPTABLES, Kind.NODE_PORT): _EXTERNAL_HOOKS,
    (Mode.NFTABLES, Kind.CLUSTER_IP): _ALL_HOOKS,
    (Mode.NFTABLES, Kind.EXTERNAL_IP): _ALL_HOOKS,
    (Mode.NFTABLES, Kind.LOAD_BALANCER): _ALL_HOOKS,
    (Mode.NFTABLES, Kind.NODE_PORT): frozenset({Hook.INPUT}),
}


def tables_of(plans: Iterable[PortPlan], health_check_node_ports: Iterable[int] = ()) -> Tables:
    """Return plans in the form in which `decide` looks them up."""
    frontends = {
        frontend.key: Match(frontend.kind, plan) for plan in plans for frontend in plan.frontends
    }
    cluster_ips = frozenset(
        key.address for key, match in frontends.items() if match.kind is Kind.CLUSTER_IP
    )
    return Tables(frontends, cluster_ips, frozenset(health_check_node_ports))


def decide(connection: Connection, tables: Tables, options: Options) -> Decision:
    """Return what happens to a new connection."""
    match = _find(connection, tables, options)
    if match is None:
        return Decision(_verdict_without_match(connection, tables, options))
    if _is_filtered_by_source(connection, match):
        return Decision(Verdict.DROP)
    refusal = _refusal(connection, match, options)
    if refusal is not None:
        return Decision(_where_in_force(refusal, connection, match.kind, options))
    if match.kind is Kind.CLUSTER_IP:
        return _internal(connection, match.plan, options)
    return _external(connection, match.plan, options)


def _find(connection: Connection, tables: Tables, options: Options) -> Match | None:
    """Find the frontend: an address of its own comes before a NodePort (parity A2.6)."""
    key = FrontendKey(connection.destination, connection.port, connection.protocol)
    match = tables.frontends.get(key)
    if match is not None and any(connection.destination):
        return match
    wildcard = key._replace(address=NODE_PORT_ADDRESS[family_of(connection.destination)])
    match = tables.frontends.get(wildcard)
    if match is None or not is_local(connection.destination, options):
        return None
    if is_node_port_address(connection.destination, options):
        return match
    return match if _is_refused_anywhere(match.plan, options) else None


def _is_refused_anywhere(plan: PortPlan, options: Options) -> bool:
    """Whether a NodePort without usable endpoints is refused on every local address.

    iptables mode does so, in spite of nodePortAddresses (parity A7.6).
    """
    return options.mode is Mode.IPTABLES and _lacks_endpoints(plan, Kind.NODE_PORT)


def _lacks_endpoints(plan: PortPlan, kind: Kind) -> bool:
    """Whether the policy in force leaves nothing to choose from (parity A8.1-A8.3)."""
    if not plan.flags & ServiceFlag.HAS_ENDPOINTS:
        return True
    return _is_policy_local(plan, kind) and plan.local_count == 0


def _is_policy_local(plan: PortPlan, kind: Kind) -> bool:
    """Whether the traffic policy of a kind of frontend is Local (parity A4.4, A4.5)."""
    internal = kind is Kind.CLUSTER_IP
    flag = ServiceFlag.INTERNAL_LOCAL if internal else ServiceFlag.EXTERNAL_LOCAL
    return bool(plan.flags & flag)


def _verdict_without_match(connection: Connection, tables: Tables, options: Options) -> Verdict:
    """Decide what is done to a connection that is for no service port."""
    if options.mode is Mode.IPTABLES:
        return _accept_health_check(connection, tables, options)
    return _check_cluster_ips(connection, tables, options)


def _accept_health_check(connection: Connection, tables: Tables, options: Options) -> Verdict:
    """Let a load balancer's health check in (iptables' KUBE-NODEPORTS of INPUT)."""
    is_asked = connection.port in tables.health_check_node_ports
    if (
        is_asked
        and connection.protocol == Protocol.TCP
        and is_local(connection.destination, options)
    ):
        return Verdict.ACCEPT
    return Verdict.PASS


def _check_cluster_ips(connection: Connection, tables: Tables, options: Options) -> Verdict:
    """Refuse what nftables mode refuses by address alone, in forward and output (A8.6, A8.7)."""
    if _hooks(connection, options) == {Hook.INPUT}:
        return Verdict.PASS
    if connection.destination in tables.cluster_ips:
        return Verdict.REJECT
    if in_any(connection.destination, options.service_cidrs):
        return Verdict.DROP
    return Verdict.PASS


def _is_filtered_by_source(connection: Connection, match: Match) -> bool:
    """Whether loadBalancerSourceRanges keep a source out (parity A10.1, A10.2, A8.8)."""
    plan = match.plan
    if match.kind is not Kind.LOAD_BALANCER or not plan.source_ranges:
        return False
    return not in_any(connection.source, plan.source_ranges)


def _refusal(connection: Connection, match: Match, options: Options) -> Verdict | None:
    """Return REJECT or DROP where no endpoint may be used, else None (parity A8.1-A8.3)."""
    plan = match.plan
    if not plan.flags & ServiceFlag.HAS_ENDPOINTS:
        return Verdict.REJECT
    if not _lacks_endpoints(plan, match.kind):
        return None
    if match.kind is Kind.CLUSTER_IP or not _is_served(connection, match.kind, options):
        return Verdict.DROP
    is_near = is_pod(connection, options) or is_local(connection.source, options)
    return None if is_near else Verdict.DROP


def _is_served(connection: Connection, kind: Kind, options: Options) -> bool:
    """Whether a frontend is translated here, and not only refused (parity A7.6)."""
    return kind is not Kind.NODE_PORT or is_node_port_address(connection.destination, options)


def _where_in_force(
    verdict: Verdict, connection: Connection, kind: Kind, options: Options
) -> Verdict:
    """Return PASS instead, where a packet meets none of the hooks that refuse (A8.5)."""
    in_force = _FILTER_HOOKS[options.mode, kind] & _hooks(connection, options)
    return verdict if in_force else Verdict.PASS


def _hooks(connection: Connection, options: Options) -> frozenset[Hook]:
    """Return the filter hooks that an untranslated packet meets on this node."""
    arrives = is_local(connection.destination, options)
    if is_local(connection.source, options):
        return frozenset({Hook.OUTPUT, Hook.INPUT} if arrives else {Hook.OUTPUT})
    return frozenset({Hook.INPUT if arrives else Hook.FORWARD})


def _internal(connection: Connection, plan: PortPlan, options: Options) -> Decision:
    """Decide for a ClusterIP: who isn't a pod of ours is masqueraded (parity A9.1-A9.4)."""
    is_local_only = _is_policy_local(plan, Kind.CLUSTER_IP)
    backends = plan.local if is_local_only else plan.cluster
    foreign = has_detector(plan.family, options) and not is_pod(connection, options)
    return _forward(connection, backends, options, masquerade=options.masquerade_all or foreign)


def _external(connection: Connection, plan: PortPlan, options: Options) -> Decision:
    """Decide for an external address (parity A9.5-A9.8)."""
    if not _is_policy_local(plan, Kind.EXTERNAL_IP):
        return _forward(connection, plan.cluster, options, masquerade=True)
    if is_pod(connection, options):
        return _forward(connection, plan.cluster, options, masquerade=False)
    if is_local(connection.source, options):
        return _forward(connection, plan.cluster, options, masquerade=True)
    return _forward(connection, plan.local, options, masquerade=False)


def _forward(
    connection: Connection, backends: tuple[Backend, ...], options: Options, *, masquerade: bool
) -> Decision:
    """Return FORWARD; a backend that is the client itself gets a hairpin (parity A9.9)."""
    hairpins = tuple(
        backend
        for backend in backends
        if backend.address == connection.source
        and (options.mode is Mode.IPTABLES or backend.flags & BackendFlag.LOCAL)
    )
    return Decision(Verdict.FORWARD, backends, masquerade, hairpins)
