# SPDX-License-Identifier: Apache-2.0
"""Pure reduction of what the API says to the model's records, by kube-proxy's rules.

Everything here raises msgspec.ValidationError, in msgspec's own form "why - at `$.path`", for
what the API server would never have let in; what kube-proxy tolerates is tolerated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from msgspec import UNSET, ValidationError

from pyproxy import model
from pyproxy.kube import wire
from pyproxy.kube.addresses import (
    parse_address,
    parse_prefix,
    valid_addresses,
    valid_prefixes,
)
from pyproxy.model import Address, Family, ObjectName, Packed, Prefix, Protocol

# The API server's default of sessionAffinityConfig.clientIP.timeoutSeconds, and its limit (A6.2).
DEFAULT_AFFINITY_S = 10800
MAX_AFFINITY_S = 86400

_FAMILIES = {family.label: family for family in Family}
_EXTERNAL_TYPES = ("NodePort", "LoadBalancer")


def service(name: ObjectName, found: wire.Service) -> model.Service | None:
    """Return what planning needs of a Service, None where it is not to be proxied (A1.1, A1.4)."""
    meta, spec = found.metadata or wire.ServiceMeta(), found.spec or wire.ServiceSpec()
    if meta.labels is not None and meta.labels.proxy_name is not UNSET:
        return None
    cluster_ip = spec.cluster_ip or (spec.cluster_ips or [""])[0]
    if cluster_ip in ("", "None") or spec.type == "ExternalName":
        return None
    external_local = _external_policy_local(spec)
    ports = _service_ports(spec.ports or [])
    check_port = _health_check_node_port(spec) if external_local else 0
    return model.Service(
        name=name,
        created=meta.creation_timestamp or "",
        type=sys.intern(spec.type or "ClusterIP"),
        cluster_ips=_cluster_ips(cluster_ip, spec),
        ports=ports,
        external_ips=valid_addresses(spec.external_ips or []),
        load_balancer_ips=_load_balancer_ips(found.status),
        source_ranges=valid_prefixes(spec.load_balancer_source_ranges or []),
        internal_policy_local=spec.internal_traffic_policy == "Local",
        external_policy_local=external_local,
        affinity_timeout_s=_affinity_timeout_s(spec),
        health_check_node_port=check_port,
        uid=_uid(meta, ports, check_port),
    )


def endpoint_slice(name: ObjectName, found: wire.EndpointSlice) -> model.EndpointSlice | None:
    """Return what planning needs of a slice, None where nobody reads it (A1.1, A1.6, A1.9)."""
    meta = found.metadata or wire.SliceMeta()
    labels = meta.labels or wire.SliceLabels()
    if labels.headless is not UNSET or not labels.service_name or found.address_type == "FQDN":
        return None
    family = _FAMILIES.get(found.address_type or "")
    if family is None:
        raise ValidationError("Expected IPv4, IPv6 or FQDN - at `$.addressType`")
    return model.EndpointSlice(
        name=name,
        service=ObjectName(name.namespace, sys.intern(labels.service_name)),
        family=family,
        ports=_slice_ports(found.ports or []),
        endpoints=_endpoints(family, found.endpoints or []),
    )


def node(name: ObjectName, found: wire.Node) -> model.Node:
    """Return what is used of a Node; addresses and CIDRs that do not parse are left out."""
    meta, spec = found.metadata or wire.NodeMeta(), found.spec or wire.NodeSpec()
    labels = meta.labels or wire.NodeLabels()
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return model.Node(
        name=name.name,
        addresses=_node_addresses(found.status),
        zone=labels.zone or "",
        pod_cidrs=valid_prefixes(cidrs),
        taints=frozenset(taint.key for taint in spec.taints or [] if taint.key),
        deleting=bool(meta.deletion_timestamp),
    )


def service_cidr(name: ObjectName, found: wire.ServiceCIDR) -> model.ServiceCIDR:
    """Return the CIDRs of a ServiceCIDR; nothing else of it is used, its conditions neither."""
    texts = (found.spec or wire.ServiceCIDRSpec()).cidrs or []
    cidrs = (_prefix(text, f"$.spec.cidrs[{index}]") for index, text in enumerate(texts))
    return model.ServiceCIDR(name.name, tuple(cidrs))


def _cluster_ips(cluster_ip: str, spec: wire.ServiceSpec) -> tuple[Address, ...]:
    """Return one address a family, of the families that spec.ipFamilies names (A1.4).

    The API server fills in ipFamilies and clusterIPs; in a hand-written object either may be
    missing, then the addresses speak for themselves.
    """
    chosen: dict[Family, Address] = {}
    for index, text in enumerate(spec.cluster_ips or [cluster_ip]):
        path = f"$.spec.clusterIPs[{index}]" if spec.cluster_ips else "$.spec.clusterIP"
        address = _address(text, path)
        family = model.family_of(address)
        if not spec.ip_families or family.label in spec.ip_families:
            chosen.setdefault(family, address)
    return tuple(chosen.values())


def _service_ports(ports: list[wire.ServicePort]) -> tuple[model.ServicePort, ...]:
    reduced: dict[tuple[str, Protocol], model.ServicePort] = {}
    for index, port in enumerate(ports):
        path = f"$.spec.ports[{index}]"
        name = sys.intern(port.name or "")
        protocol = _protocol(port.protocol, f"{path}.protocol")
        if (name, protocol) in reduced:
            raise ValidationError(f"A second {protocol.name} port named {name!r} - at `{path}`")
        reduced[name, protocol] = model.ServicePort(
            name=name,
            protocol=protocol,
            port=_in_range(port.port, 1, 65535, f"{path}.port"),
            node_port=_in_range(port.node_port or 0, 0, 65535, f"{path}.nodePort"),
            target_port=_target_port(port),
        )
    return tuple(reduced.values())


def _target_port(port: wire.ServicePort) -> int:
    """Return the number of the port that pods have; 0 where that is named, or the service's."""
    target = port.target_port
    return target if isinstance(target, int) and target != port.port else 0


def _uid(meta: wire.ServiceMeta, ports: Iterable[model.ServicePort], check_port: int) -> str:
    """Return the uid of a Service that an Event may be about; others do not pay for it."""
    has_sctp = any(port.protocol is Protocol.SCTP for port in ports)
    return (meta.uid or "") if has_sctp or check_port else ""


def _load_balancer_ips(status: wire.ServiceStatus | None) -> tuple[Address, ...]:
    """Return the ingress addresses of ipMode VIP; a missing ipMode is VIP (A2.3, KEP-1860)."""
    if status is None or status.load_balancer is None:
        return ()
    ingress = status.load_balancer.ingress or []
    return valid_addresses(one.ip for one in ingress if one.ip and one.ip_mode in (None, "VIP"))


def _external_policy_local(spec: wire.ServiceSpec) -> bool:
    """Narrow externalTrafficPolicy to the services that can be reached from outside (A4.5)."""
    kind = spec.type or "ClusterIP"
    exposed = kind in _EXTERNAL_TYPES or (kind == "ClusterIP" and bool(spec.external_ips))
    return exposed and spec.external_traffic_policy == "Local"


def _health_check_node_port(spec: wire.ServiceSpec) -> int:
    """Return the port of a service that externalTrafficPolicy Local holds for (A10.5)."""
    if spec.type != "LoadBalancer":
        return 0
    return _in_range(spec.health_check_node_port or 0, 0, 65535, "$.spec.healthCheckNodePort")


def _affinity_timeout_s(spec: wire.ServiceSpec) -> int:
    if spec.session_affinity != "ClientIP":
        return 0
    client_ip = (spec.session_affinity_config or wire.AffinityConfig()).client_ip
    if client_ip is None or client_ip.timeout_seconds is None:
        return DEFAULT_AFFINITY_S
    path = "$.spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return _in_range(client_ip.timeout_seconds, 1, MAX_AFFINITY_S, path)


def _slice_ports(ports: list[wire.SlicePort]) -> tuple[model.SlicePort, ...]:
    """Return the ports that have a name and a number; the others mean nothing (A1.8)."""
    return _shared_ports(
        tuple(
            model.SlicePort(
                sys.intern(port.name),
                _protocol(port.protocol, f"$.ports[{index}].protocol"),
                _in_range(port.port, 1, 65535, f"$.ports[{index}].port"),
            )
            for index, port in enumerate(ports)
            if port.name is not None and port.port
        )
    )


@lru_cache(maxsize=1024)
def _shared_ports(ports: tuple[model.SlicePort, ...]) -> tuple[model.SlicePort, ...]:
    """Return one and the same tuple for equal ports: thousands of slices have the same ones."""
    return ports


@lru_cache(maxsize=1024)
def _shared_hints(names: tuple[str, ...]) -> frozenset[str]:
    """Return one and the same set for equal hints: a set takes more room than its endpoint."""
    return frozenset(names)


def _endpoints(family: Family, found: list[wire.Endpoint]) -> Packed[model.Endpoint]:
    return Packed(
        model.Endpoint,
        (
            _endpoint(family, one, one.addresses[0], index)
            for index, one in enumerate(found)
            if one.addresses
        ),
    )


def _endpoint(family: Family, found: wire.Endpoint, text: str, index: int) -> model.Endpoint:
    """Return an endpoint by its first address (A1.9), its nil conditions filled in (A1.10)."""
    path = f"$.endpoints[{index}].addresses[0]"
    address = _address(text, path)
    if len(address) != family.address_bytes:
        raise ValidationError(f"Expected an {family.label} address, got {text!r} - at `{path}`")
    conditions = found.conditions or wire.Conditions()
    hints = found.hints or wire.Hints()
    return model.Endpoint(
        address,
        sys.intern(found.node_name or ""),
        conditions.ready is not False,
        conditions.serving is not False,
        conditions.terminating is True,
        _hint_names(hints.for_zones),
        _hint_names(hints.for_nodes),
    )


def _hint_names(hints: list[wire.Hint] | None) -> frozenset[str]:
    return _shared_hints(tuple(hint.name for hint in hints or ()))


def trigger_time(found: wire.EndpointSlice) -> float:
    """Return Change.trigger_time; kube-proxy takes no notice of a time it cannot read."""
    annotations = (found.metadata or wire.SliceMeta()).annotations
    if annotations is None or not annotations.trigger_time:
        return 0.0
    try:
        return datetime.fromisoformat(annotations.trigger_time).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _node_addresses(status: wire.NodeStatus | None) -> tuple[Address, ...]:
    """Return the InternalIPs, then the ExternalIPs (A16.2)."""
    found = (status.addresses if status else None) or []
    return valid_addresses(_of_type("InternalIP", found) + _of_type("ExternalIP", found))


def _of_type(type_: str, found: Iterable[wire.NodeAddress]) -> list[str]:
    return [one.address for one in found if one.type == type_ and one.address]


def _address(text: str, path: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ValidationError(f"{error} - at `{path}`") from None


def _prefix(text: str, path: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise ValidationError(f"{error} - at `{path}`") from None


def _protocol(text: str | None, path: str) -> Protocol:
    """Return the protocol; the API's default is TCP."""
    try:
        return Protocol[text or "TCP"]
    except KeyError:
        raise ValidationError(f"Expected TCP, UDP or SCTP, got {text!r} - at `{path}`") from None


def _in_range(number: int, least: int, most: int, path: str) -> int:
    if not least <= number <= most:
        raise ValidationError(f"Expected {least} to {most}, got {number} - at `{path}`")
    return number
