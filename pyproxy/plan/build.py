# SPDX-License-Identifier: Apache-2.0
"""A service and its slices become plans: the pure function that the program is about."""

from __future__ import annotations

from collections.abc import Iterable

from pyproxy.model import (
    EndpointSlice,
    Family,
    Packed,
    Prefix,
    Service,
    ServicePort,
    ServicePortName,
    family_of,
)
from pyproxy.plan.endpoints import Candidate, Categories, categorize_endpoints, merge_endpoints
from pyproxy.plan.frontends import frontends_for, is_externally_accessible, source_ranges_for
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import Backend, BackendFlag, Member, PortPlan, ServiceFlag

# operators of IntFlag cost a microsecond each
MEMBER_FLAGS = tuple(BackendFlag(value) for value in range(64))
_FLAGS = tuple(ServiceFlag(value) for value in range(16))


def plan_service(
    service: Service, slices: Iterable[EndpointSlice], options: Options
) -> list[PortPlan]:
    """Return the plans of a service: one a port and family that it has a ClusterIP in (A1.4).

    `slices` are the service's own, of any family, in an order that events don't change. Of two
    ports with one name and protocol the later counts, as in kube-proxy (A1.5).
    """
    pieces = tuple(slices)
    ports = {(port.name, port.protocol): port for port in service.ports}
    families = sorted({family_of(address) for address in service.cluster_ips})
    return [
        _plan_port(service, port, family, pieces, options)
        for port in ports.values()
        for family in families
    ]


def _plan_port(
    service: Service,
    port: ServicePort,
    family: Family,
    slices: tuple[EndpointSlice, ...],
    options: Options,
) -> PortPlan:
    accessible = is_externally_accessible(service, port, family)
    external_local = service.external_policy_local and accessible
    candidates = merge_endpoints(port, slices, family, options)
    categories = categorize_endpoints(
        candidates,
        options,
        uses_cluster=not service.internal_policy_local or accessible,  # A4.1
        uses_local=service.internal_policy_local or external_local,  # A4.5
    )
    backends, offset = _ordered(categories)
    targets = {each.backend.port for each in candidates} if port.node_port else ()
    return PortPlan(
        name=ServicePortName(*service.name, port.name, port.protocol),
        family=family,
        created=service.created,
        frontends=frontends_for(service, port, family, options, targets),
        backends=Packed(Backend, backends),
        local_count=len(categories.local),
        cluster_offset=offset,
        cluster_count=len(categories.cluster),
        flags=_FLAGS[
            service.internal_policy_local
            | external_local << 1
            | categories.has_endpoints << 2
            | _has_local(backends) << 3
        ],
        affinity_timeout_s=service.affinity_timeout_s,
        members=_members(candidates, categories),
        source_ranges=_source_ranges(service, family, options, categories),
    )


def _source_ranges(
    service: Service, family: Family, options: Options, categories: Categories
) -> tuple[Prefix, ...]:
    """Return who may ask; iptables mode refuses all without endpoints, before it asks (A8.8)."""
    if options.mode is Mode.IPTABLES and not categories.has_endpoints:
        return ()
    return source_ranges_for(service, family, options)


def _ordered(categories: Categories) -> tuple[tuple[Backend, ...], int]:
    """Return local-only, both, cluster-only backends, and where the Cluster set begins.

    Hints and the terminating fall-back make either set no part of the other (rule 16).
    """
    cluster = [candidate.backend for candidate in categories.cluster]
    if not categories.local:
        return tuple(cluster), 0
    local = [candidate.backend for candidate in categories.local]
    shared = set(cluster).intersection(local)
    local_only = [backend for backend in local if backend not in shared]
    both = [backend for backend in local if backend in shared]
    cluster_only = [backend for backend in cluster if backend not in shared]
    return (*local_only, *both, *cluster_only), len(local_only)


def _has_local(backends: Iterable[Backend]) -> bool:
    return any(backend.flags.value & BackendFlag.LOCAL.value for backend in backends)


def _members(candidates: list[Candidate], categories: Categories) -> Packed[Member]:
    """Return the endpoints that established traffic may stay with, sorted (datapath rule 18).

    They say which sets they are in, for who comes again (A6.3).
    """
    local = {each.backend for each in categories.local}
    cluster = {each.backend for each in categories.cluster}
    found = (
        Member(
            backend.address,
            backend.port,
            MEMBER_FLAGS[backend.flags | (backend in local) << 4 | (backend in cluster) << 5],
        )
        for backend, endpoint in candidates
        if endpoint.ready or endpoint.serving
    )
    return Packed(Member, sorted(found))
