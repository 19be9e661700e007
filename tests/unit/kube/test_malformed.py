# SPDX-License-Identifier: Apache-2.0
"""Objects that the API server would refuse are reported, whatever is wrong with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import SourceError
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Kind
from pyproxy.model import ObjectName
from tests import builders
from tests.builders import Json

WEB = ObjectName("default", "web")
BARE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}

SERVICE, SLICE, NODE = Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.NODE
HUGE = 10**30


@pytest.mark.parametrize(
    ("kind", "document", "name", "why"),
    [
        (SERVICE, builders.service(cluster_ip="10.0.0.300"), "default/web", "$.spec.clusterIPs[0]"),
        (SERVICE, {**BARE, "spec": {"clusterIP": "x"}}, "default/web", "$.spec.clusterIP`"),
        (SERVICE, builders.service(ports=[{"port": "80"}]), "default/web", "$.spec.ports[0].port"),
        (SERVICE, builders.service(ports=[{"port": True}]), "default/web", "$.spec.ports[0].port"),
        (SERVICE, builders.service(ports=[{"port": 0}]), "default/web", "$.spec.ports[0].port"),
        (SERVICE, builders.service(ports=[{"port": 65536}]), "default/web", "1 to 65535"),
        (SERVICE, builders.service(ports=[{"port": HUGE}]), "default/web", "1 to 65535"),
        (SERVICE, builders.service(ports=[{"name": "x"}]), "default/web", "field `port`"),
        (
            SERVICE,
            builders.service(ports=[{"port": 1, "nodePort": -1}]),
            "default/web",
            "$.spec.ports[0].nodePort",
        ),
        (
            SERVICE,
            builders.service(ports=[{"port": 1}, {"port": 2, "protocol": "ICMP"}]),
            "default/web",
            "$.spec.ports[1].protocol",
        ),
        (
            SERVICE,
            builders.service(ports=[{"port": 1}, {"port": 2}]),
            "default/web",
            "second TCP port named ''",
        ),
        (SERVICE, {**BARE, "spec": {"ports": {}}}, "default/web", "$.spec.ports"),
        (
            SERVICE,
            builders.service(
                sessionAffinity="ClientIP",
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}},
            ),
            "default/web",
            "timeoutSeconds",
        ),
        (SERVICE, {"metadata": {}}, "Service without a name", "`name`"),
        (SERVICE, {"metadata": {"name": 5}}, "Service without a name", "$.metadata.name"),
        (SERVICE, {}, "Service without a name", "`name`"),
        (SLICE, builders.endpoint_slice(address_type="IPv5"), "default/web-a", "$.addressType"),
        (
            SLICE,
            builders.endpoint_slice(address_type="IPv6"),
            "default/web-a",
            "$.endpoints[0].addresses[0]",
        ),
        (
            SLICE,
            builders.endpoint_slice(addresses=["10.0.0.1", "x"]),
            "default/web-a",
            "$.endpoints[1].addresses[0]",
        ),
        (
            SLICE,
            builders.endpoint_slice(ports=[builders.slice_port(port=70000)]),
            "default/web-a",
            "$.ports[0].port",
        ),
        (
            SLICE,
            builders.endpoint_slice(ports=[builders.slice_port(protocol="tcp")]),
            "default/web-a",
            "$.ports[0].protocol",
        ),
        (NODE, {"metadata": {"name": "n1"}, "spec": []}, "Node n1", "$.spec"),
    ],
)
def test_malformed_objects(kind: Kind, document: Json, name: str, why: str) -> None:
    """The error names the object, the JSON path and what to do."""
    for form in (document, msgspec.json.encode(document)):
        with pytest.raises(SourceError) as caught:
            decode(kind, form)
        assert name in caught.value.message
        assert why in caught.value.message
        assert "correct this field" in caught.value.remedy


def test_nesting_without_end_is_malformed() -> None:
    """A hostile document gives an error, not a crash."""
    with pytest.raises(SourceError, match="without a name"):
        decode(Kind.SERVICE, b'{"a":' + b"[" * 100_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
FIELDS = [
    "clusterIP", "clusterIPs", "type", "ports", "externalIPs", "ipFamilies", "sessionAffinity",
    "loadBalancerSourceRanges", "sessionAffinityConfig", "healthCheckNodePort",
]  # fmt: skip


@given(st.sampled_from(FIELDS), JSON)
def test_any_value_decodes_or_is_reported(field: str, value: Any) -> None:
    """Whatever stands in a field, the answer is a record or a SourceError."""
    document = builders.service()
    document["spec"][field] = value
    try:
        assert decode(Kind.SERVICE, document).name == WEB
    except SourceError as error:
        assert "default/web" in error.message  # noqa: PT017 - both outcomes are right
