# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' objects become the model's records by kube-proxy's rules."""

from __future__ import annotations

import msgspec
import pytest

from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Change, Kind
from pyproxy.model import Endpoint, EndpointSlice, Family, Node, ObjectName, Protocol, Service
from pyproxy.model import ServicePort as Port
from tests import builders
from tests.builders import Json

WEB = ObjectName("default", "web")
BARE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}


def service_of(document: Json) -> Service:
    """Decode a Service that is proxied, from an object and from JSON bytes alike."""
    found = both_ways(Kind.SERVICE, document).object
    assert isinstance(found, Service)
    return found


def slice_of(document: Json) -> EndpointSlice:
    """Decode an EndpointSlice that is used."""
    found = both_ways(Kind.ENDPOINT_SLICE, document).object
    assert isinstance(found, EndpointSlice)
    return found


def node_of(document: Json) -> Node:
    """Decode a Node."""
    found = both_ways(Kind.NODE, document).object
    assert isinstance(found, Node)
    return found


def both_ways(kind: Kind, document: Json) -> Change:
    """Decode a document as an object and as JSON; both must agree."""
    change = decode(kind, document)
    raw = msgspec.json.encode(document)
    assert decode(kind, raw) == decode(kind, msgspec.Raw(raw)) == change
    return change


def packed(*texts: str) -> tuple[bytes, ...]:
    """Return addresses as the model has them."""
    return tuple(parse_address(text) for text in texts)


def test_the_uid_is_kept_where_an_event_may_need_it() -> None:
    """Of Services with an SCTP port; 10,000 others do not pay a megabyte for it."""
    sctp = [builders.service_port(), builders.service_port("sctp", 9, "SCTP")]
    for ports, uid in ((sctp, "11-22"), (None, "")):
        document = builders.service(ports=ports)
        document["metadata"]["uid"] = "11-22"
        assert service_of(document).uid == uid
    assert not service_of(builders.service(ports=sctp)).uid
    checked = builders.service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30200
    )
    checked["metadata"]["uid"] = "33-44"
    assert service_of(checked).uid == "33-44"


def test_the_builders_give_equal_objects_and_records() -> None:
    """The defaults of object builders and record builders are the same things."""
    assert service_of(builders.service()) == builders.service_record()
    assert slice_of(builders.endpoint_slice()) == builders.slice_record()
    assert node_of(builders.node()) == builders.node_record()


INGRESS: list[Json] = [
    {"ip": "1.2.3.004"},
    {"ip": "1.2.3.5", "ipMode": "VIP"},
    *({"ip": "1.2.3.6", "ipMode": mode} for mode in ("Proxy", "Other")),
    {"hostname": "lb.example"},
]


def test_a_full_service() -> None:
    """Every field that is read arrives (A2.2, A2.3, A4.4, A4.5, A6.2, A10)."""
    found = service_of(
        builders.service(
            cluster_ips=["172.30.0.041", "fd00::1"],
            ipFamilies=["IPv4", "IPv6"],
            type="LoadBalancer",
            ports=[
                builders.service_port("dns", 53, "UDP", nodePort=30053, targetPort=5353),
                builders.service_port("sctp", 9, "SCTP"),
            ],
            externalIPs=["192.168.099.022", "", "nonsense", "192.168.99.22"],
            loadBalancerSourceRanges=[" 203.0.113.000/025 ", "x", "fd00::/8"],
            internalTrafficPolicy="Local",
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 17}},
            ingress=INGRESS,
        )
    )
    assert found == Service(
        name=WEB,
        created=builders.CREATED,
        type="LoadBalancer",
        cluster_ips=packed("172.30.0.41", "fd00::1"),
        ports=(Port("dns", Protocol.UDP, 53, 30053, 5353), Port("sctp", Protocol.SCTP, 9, 0, 8080)),
        external_ips=packed("192.168.99.22"),
        load_balancer_ips=packed("1.2.3.4", "1.2.3.5"),
        source_ranges=(parse_prefix("203.0.113.0/25"), parse_prefix("fd00::/8")),
        internal_policy_local=True,
        external_policy_local=True,
        affinity_timeout_s=17,
        health_check_node_port=32000,
    )


def test_a_bare_service_has_the_defaults_of_the_api_server() -> None:
    """A hand-written object may leave out what the API server would fill in."""
    found = service_of({**BARE, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}})
    assert found == Service(WEB, "", "ClusterIP", packed("10.0.0.1"), (Port("", Protocol.TCP, 80),))


@pytest.mark.parametrize("target", ["http", "80", 80, None])
def test_a_target_port_that_says_nothing_by_itself(target: str | int | None) -> None:
    """By name, by the service's own number, or not at all."""
    (port,) = service_of(builders.service(ports=[{"port": 80, "targetPort": target}])).ports
    assert port.target_port == 0


NULLABLE = ["ports", "externalIPs", "sessionAffinityConfig", "type", "ipFamilies"]


@pytest.mark.parametrize("field", NULLABLE)
def test_null_means_not_there(field: str) -> None:
    """Kubernetes writes null for what is empty."""
    document = builders.service()
    document["spec"][field] = document["metadata"]["labels"] = document["status"] = None
    absent = builders.service()
    absent["spec"].pop(field, None)
    assert service_of(document) == service_of(absent)


@pytest.mark.parametrize(
    "document",
    [
        builders.service(cluster_ip="None"),
        builders.service(cluster_ip=""),
        builders.service(cluster_ips=[]),
        builders.service(type="ExternalName"),
        builders.service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
        builders.service(labels={"service.kubernetes.io/service-proxy-name": ""}),
        BARE,
    ],
)
def test_services_that_are_not_proxied(document: Json) -> None:
    """Headless, ExternalName and foreign services decode to None (A1.1, A1.4)."""
    assert both_ways(Kind.SERVICE, document) == Change(Kind.SERVICE, WEB, None)


@pytest.mark.parametrize(
    ("ips", "families", "expected"),
    [
        (["10.0.0.1", "fd00::1"], ["IPv4"], ["10.0.0.1"]),
        (["10.0.0.1", "fd00::1"], ["IPv6", "IPv4"], ["10.0.0.1", "fd00::1"]),
        (["fd00::1"], None, ["fd00::1"]),
        (["10.0.0.1", "10.0.0.2"], None, ["10.0.0.1"]),
        (["10.0.0.1"], ["IPv6"], []),
    ],
)
def test_cluster_ips_by_family(
    ips: list[str], families: list[str] | None, expected: list[str]
) -> None:
    """One clusterIP a family, of the families that ipFamilies names."""
    found = service_of(builders.service(cluster_ips=ips, ipFamilies=families))
    assert found.cluster_ips == packed(*expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"type": "NodePort"}, True),
        ({"type": "LoadBalancer"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": None}, False),
        ({"type": "ClusterIP", "externalIPs": ["1.2.3.4"]}, True),
        ({"externalIPs": ["not an address"]}, True),
    ],
)
def test_external_policy_counts_where_there_is_an_outside(fields: Json, expected: bool) -> None:
    """The externalTrafficPolicy is narrowed to what can be reached from outside (A4.5)."""
    document = builders.service(externalTrafficPolicy="Local", healthCheckNodePort=3, **fields)
    found = service_of(document)
    assert found.external_policy_local is expected
    assert bool(found.health_check_node_port) is (fields.get("type") == "LoadBalancer")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {}}}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}, 10800),
    ],
)
def test_affinity_timeout(fields: Json, expected: int) -> None:
    """The API's default timeout holds where none is given (A6.2)."""
    assert service_of(builders.service(**fields)).affinity_timeout_s == expected


def test_a_full_slice() -> None:
    """Conditions' nil values are filled in, and only the first address counts (A1.9, A1.10)."""
    found = slice_of(
        builders.endpoint_slice(
            annotations={
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-11-21T21:00:00.25Z"
            },
            ports=[
                builders.slice_port("http", 8080),
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "", "port": 9},
            ],
            endpoints=[
                {
                    "addresses": ["10.180.00.001", "10.0.0.9"],
                    "nodeName": "n2",
                    "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": None},
                },
                {"addresses": []},
                {"addresses": None},
                builders.endpoint_json("10.0.0.2", node_name="", ready=False, serving=False),
                builders.endpoint_json(
                    "10.0.0.3", ready=False, terminating=True, hints={"forNodes": [{"name": "n1"}]}
                ),
            ],
        )
    )
    assert [(port.name, port.protocol, port.port) for port in found.ports] == [
        ("http", Protocol.TCP, 8080),
        ("dns", Protocol.UDP, 53),
        ("", Protocol.TCP, 9),
    ]
    zones = frozenset({"a", "b"})
    assert found.endpoints == (
        Endpoint(packed("10.180.0.1")[0], "n2", True, True, False, zones),
        Endpoint(packed("10.0.0.2")[0], "", False, False, False),
        Endpoint(packed("10.0.0.3")[0], "n1", False, True, True, frozenset(), frozenset({"n1"})),
    )
    assert (found.service, found.family) == (WEB, Family.IPV4)


@pytest.mark.parametrize(
    "port", [{"port": 80}, {"name": "x"}, {"name": "x", "port": 0}, {"name": None, "port": 80}]
)
def test_slice_ports_without_name_or_number_mean_nothing(port: Json) -> None:
    """Nil does not mean "all ports" (A1.8)."""
    assert slice_of(builders.endpoint_slice(ports=[port])).ports == ()


@pytest.mark.parametrize(
    "document",
    [
        builders.endpoint_slice(labels={"service.kubernetes.io/headless": ""}),
        builders.endpoint_slice(service=""),
        builders.endpoint_slice(labels={"kubernetes.io/service-name": ""}),
        builders.endpoint_slice(
            address_type="FQDN", endpoints=[{"addresses": ["www.example.com"]}]
        ),
        {**builders.endpoint_slice(), "metadata": {"name": "web-a"}},
    ],
)
def test_slices_that_nobody_reads(document: Json) -> None:
    """Headless, ownerless and FQDN slices decode to None (A1.1, A1.6, A1.9)."""
    assert both_ways(Kind.ENDPOINT_SLICE, document).object is None


@pytest.mark.parametrize("time", ["yesterday", "", "99999-01-01T00:00:00Z", "2026-02-30T00:00:00Z"])
def test_an_unreadable_trigger_time_is_none(time: str) -> None:
    """kube-proxy makes no fuss about the annotation."""
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": time}
    document = builders.endpoint_slice(annotations=annotations)
    assert both_ways(Kind.ENDPOINT_SLICE, document).trigger_time == 0.0


def test_a_trigger_time_belongs_to_the_change() -> None:
    """The annotation is RFC 3339 with up to nine digits of a second (A20.3)."""
    annotations = {
        "endpoints.kubernetes.io/last-change-trigger-time": "2026-11-21T21:00:00.250000009Z"
    }
    document = builders.endpoint_slice(annotations=annotations)
    assert both_ways(Kind.ENDPOINT_SLICE, document).trigger_time == 1795294800.25


def test_equal_parts_are_shared() -> None:
    """Thousands of slices hold one copy of node names, ports and hints."""
    hints = {"forZones": [{"name": "zone-of-this-test"}]}
    entry = builders.endpoint_json(node_name="node-of-this-test", hints=hints)
    raw = msgspec.json.encode(builders.endpoint_slice(endpoints=[entry]))
    one, two = (decode(Kind.ENDPOINT_SLICE, raw).object for _ in range(2))
    assert isinstance(one, EndpointSlice)
    assert isinstance(two, EndpointSlice)
    assert one.ports is two.ports
    assert one.endpoints[0].node_name is two.endpoints[0].node_name
    assert one.endpoints[0].zone_hints is two.endpoints[0].zone_hints


def test_a_full_node() -> None:
    """InternalIPs come before ExternalIPs; what does not parse is left out (A16.2)."""
    document = builders.node(
        internal_ips=["192.168.0.1", "fd18::2"],
        external_ips=["203.0.113.1", "bad"],
        zone="a",
        pod_cidrs=["10.244.1.0/24", "fd00:244:1::/64"],
        taints=["ToBeDeletedByClusterAutoscaler"],
        deleted="2026-01-01T00:00:00Z",
    )
    document["status"]["addresses"].reverse()
    assert both_ways(Kind.NODE, document) == Change(
        Kind.NODE,
        ObjectName("", "n1"),
        Node(
            name="n1",
            addresses=packed("fd18::2", "192.168.0.1", "203.0.113.1"),
            zone="a",
            pod_cidrs=(parse_prefix("10.244.1.0/24"), parse_prefix("fd00:244:1::/64")),
            taints=frozenset({"ToBeDeletedByClusterAutoscaler"}),
            deleting=True,
        ),
    )


def test_a_bare_node() -> None:
    """A Node may have nothing but its name, or podCIDR alone."""
    assert node_of({"metadata": {"name": "n1", "namespace": "x"}}) == Node("n1")
    old = node_of({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.1.0/24"}})
    assert old.pod_cidrs == (parse_prefix("10.0.1.0/24"),)


def test_a_missing_namespace_is_default() -> None:
    """Objects without a namespace are in "default", their service too."""
    document = builders.endpoint_slice(namespace="")
    assert slice_of(document).name.namespace == slice_of(document).service.namespace == "default"
    assert service_of(builders.service(namespace="prod")).name == ObjectName("prod", "web")
