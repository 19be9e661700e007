# SPDX-License-Identifier: Apache-2.0
"""ServiceCIDRs, from manifests and from the API server's bytes."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import SourceError
from pyproxy.kube.addresses import parse_prefix
from pyproxy.kube.api_shelf import Shelf
from pyproxy.kube.catalogue import Catalogue
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Change, Kind, Report
from pyproxy.model import ObjectName, Prefix, ServiceCIDR, address_text
from tests import builders
from tests.builders import Json

NAME = ObjectName("", "kubernetes")
CIDR = st.builds(lambda address, length: f"{address}/{length}", st.ip_addresses(v=4), st.integers())
FAMILIES = st.one_of(
    *(
        st.builds(Prefix, st.binary(min_size=size, max_size=size), st.integers(0, 8 * size))
        for size in (4, 16)
    )
)


def decoded(document: Json) -> ServiceCIDR:
    """Decode an object as YAML and as JSON give it; both must agree."""
    change = decode(Kind.SERVICE_CIDR, document)
    assert decode(Kind.SERVICE_CIDR, msgspec.json.encode(document)) == change
    assert isinstance(change.object, ServiceCIDR)
    assert change.name == ObjectName("", change.object.name)
    return change.object


def changed(*cidrs: str) -> Change:
    """Return the event that gives `kubernetes` these CIDRs."""
    return Change(Kind.SERVICE_CIDR, NAME, builders.service_cidr_record(cidrs=cidrs))


def test_the_builders_give_equal_objects_and_records() -> None:
    """The defaults of the object and of the record are the same thing."""
    assert decoded(builders.service_cidr()) == builders.service_cidr_record()


@pytest.mark.parametrize("spec", [None, {}, {"cidrs": None}, {"cidrs": []}])
def test_one_without_cidrs_holds_none(spec: Json | None) -> None:
    """spec.cidrs is optional to the API."""
    document = {"metadata": {"name": "kubernetes", "namespace": "x"}, "spec": spec}
    assert decoded(document) == ServiceCIDR("kubernetes")


@given(st.lists(FAMILIES, max_size=3))
def test_any_cidrs_arrive(prefixes: list[Prefix]) -> None:
    """In their order, with host bits cleared, as every CIDR is read."""
    texts = [f"{address_text(one.address)}/{one.length}" for one in prefixes]
    found = decoded(builders.service_cidr(cidrs=texts))
    assert found.cidrs == tuple(map(parse_prefix, texts))


@given(st.lists(st.one_of(CIDR, st.text(max_size=9), st.integers(), st.none()), max_size=3))
def test_any_cidrs_decode_or_are_reported(values: list[str | int | None]) -> None:
    """Whatever stands there, the answer is a record or an error that names the object."""
    document = builders.service_cidr(cidrs=[])
    document["spec"]["cidrs"] = values
    try:
        assert len(decoded(document).cidrs) == len(values)
    except SourceError as error:
        assert "ServiceCIDR kubernetes is malformed" in error.message  # noqa: PT017 - both are right
        assert "$.spec.cidrs[" in error.message  # noqa: PT017


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("form", [json.dumps, yaml.dump])
def test_manifests(version: str, form: type[str]) -> None:
    """By themselves and in lists, of either version: they have the same fields."""
    document = builders.service_cidr() | {"apiVersion": f"networking.k8s.io/{version}"}
    expected = [changed("10.96.0.0/16", "fd00:10:96::/112")]
    assert Catalogue().put("a.yaml", form(document).encode()) == expected
    listed = {"apiVersion": document["apiVersion"], "kind": "ServiceCIDRList", "items": [document]}
    assert Catalogue().put("a.yaml", form(listed).encode()) == expected


def test_a_malformed_manifest_keeps_the_last_good_version() -> None:
    """It is reported by its name until it is mended, and leaves with its file."""
    catalogue = Catalogue()

    def put(*cidrs: str) -> list[object]:
        document = builders.service_cidr(cidrs=cidrs)
        return [*catalogue.put("a.json", json.dumps(document).encode())]

    assert put("10.96.0.0/16") == [changed("10.96.0.0/16")]
    (report,) = put("10.96.0.0/16", "10.97.0.0/33")
    assert isinstance(report, Report)
    assert report.source == "ServiceCIDR kubernetes in a.json"
    assert "$.spec.cidrs[1]" in report.message
    assert put("9.0.0.0/8") == [changed("9.0.0.0/8"), Report(report.source, "")]
    assert catalogue.remove("a.json") == [Change(Kind.SERVICE_CIDR, NAME, None)]


def test_a_malformed_one_of_the_api_server_keeps_the_last_good_version() -> None:
    """No Service may be missing for it."""
    shelf = Shelf(Kind.SERVICE_CIDR)
    good, bad = (
        msgspec.Raw(msgspec.json.encode(builders.service_cidr(cidrs=[text])))
        for text in ("10.96.0.0/16", "10.96.0.0")
    )
    assert list(shelf.put(good)) == [changed("10.96.0.0/16")]
    (report,) = shelf.put(bad)
    assert isinstance(report, Report)
    assert (report.source, report.lacks) == ("ServiceCIDR kubernetes", None)
    assert list(shelf.drop(bad)) == [
        Change(Kind.SERVICE_CIDR, NAME, None),
        Report(report.source, "", None),
    ]
