# SPDX-License-Identifier: Apache-2.0
"""One service port of one family: what clients dial to reach it (parity A2, A3.2)."""

from __future__ import annotations

from collections.abc import Container, Iterator

from pyproxy.model import Address, Family, Prefix, Service, ServicePort, family_of
from pyproxy.plan.cidr import in_any
from pyproxy.plan.options import Mode, Options
from pyproxy.tables import Frontend, FrontendKey, Kind

NODE_PORT_ADDRESS = {family: bytes(family.address_bytes) for family in Family}


def of_family(addresses: tuple[Address, ...], family: Family) -> tuple[Address, ...]:
    """Return the addresses of a family."""
    return tuple(address for address in addresses if family_of(address) is family)


def frontends_for(
    service: Service,
    port: ServicePort,
    family: Family,
    options: Options,
    targets: Container[int] = (),
) -> tuple[Frontend, ...]:
    """Return the frontends of a service port in a family, each key once.

    `targets` are the ports of its endpoints.

    A NodePort has the address of all zeros: which addresses of the node count is looked up
    elsewhere (`options.is_node_port_address`). An all-zero VIP would claim that key and is left
    out; Kubernetes' validation refuses it too.
    """
    found: dict[FrontendKey, Frontend] = {}
    for kind, address in _addresses(service, family, options):
        if any(address):
            key = FrontendKey(address, port.port, port.protocol.value)
            found.setdefault(key, Frontend(key, kind))
    if port.node_port:
        key = FrontendKey(NODE_PORT_ADDRESS[family], port.node_port, port.protocol.value)
        own = port.node_port == (port.target_port or port.port) or port.node_port in targets
        found[key] = Frontend(key, Kind.NODE_PORT, bindable=own)
    return tuple(found.values())


def _addresses(
    service: Service, family: Family, options: Options
) -> Iterator[tuple[Kind, Address]]:
    """Yield a service's addresses; where two kinds share one, the first yielded counts.

    iptables matches externalIPs before load balancer addresses, so source ranges don't filter
    an address that is both; nftables filters before it translates.
    """
    external = (options.allow_service_external_ips and service.external_ips) or ()
    balanced = service.load_balancer_ips
    later = [(Kind.EXTERNAL_IP, external), (Kind.LOAD_BALANCER, balanced)]
    if options.mode is Mode.NFTABLES:
        later.reverse()
    for kind, addresses in [(Kind.CLUSTER_IP, service.cluster_ips), *later]:
        for address in of_family(addresses, family):
            yield kind, address


def is_externally_accessible(service: Service, port: ServicePort, family: Family) -> bool:
    """Whether anything but the ClusterIP leads to a port in this family.

    externalIPs count even where the gate AllowServiceExternalIPs is off (parity A2.2).
    """
    addresses = service.external_ips + service.load_balancer_ips
    return bool(port.node_port or of_family(addresses, family))


def source_ranges_for(service: Service, family: Family, options: Options) -> tuple[Prefix, ...]:
    """Return what loadBalancerSourceRanges let in in a family, () for no filter (A10.2).

    If they admit the node, they admit who has a load balancer's address of the service as well:
    that is the node, speaking with an address of its own (A10.3).
    """
    addresses = of_family(service.load_balancer_ips, family)
    if not addresses:
        return ()
    ranges = tuple(r for r in service.source_ranges if family_of(r.address) is family)
    if any(r.length == 0 for r in ranges):
        return ()
    if in_any(options.node_ip(family), ranges):
        ranges += tuple(Prefix(address, 8 * len(address)) for address in addresses)
    return tuple(sorted(set(ranges)))


def health_check_node_port(service: Service) -> int:
    """Return the port on which the load balancer asks for this service's health, 0 for none.

    Only type LoadBalancer with externalTrafficPolicy Local has one (parity A10.5).
    """
    if service.type == "LoadBalancer" and service.external_policy_local:
        return service.health_check_node_port
    return 0
