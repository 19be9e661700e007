# SPDX-License-Identifier: Apache-2.0
"""Labels by which a Service or EndpointSlice is somebody else's, put on and taken off (A1.2).

An API server's selectors make a deletion of it; a file of manifests is filtered by nobody but us.
"""

from __future__ import annotations

import json

import pytest

from pyproxy.kube.catalogue import Catalogue
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Change, Kind
from tests import builders
from tests.builders import Json

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"


def labelled(kind: Kind, label: str | None, value: str = "") -> Json:
    """Return an object of a kind with a label."""
    made = builders.service() if kind is Kind.SERVICE else builders.endpoint_slice()
    if label:
        made["metadata"].setdefault("labels", {})[label] = value
    return made


@pytest.mark.parametrize("value", ["", "other"])
@pytest.mark.parametrize(
    ("kind", "label"), [(Kind.SERVICE, PROXY_NAME), (Kind.ENDPOINT_SLICE, HEADLESS)]
)
def test_a_label_that_comes_and_goes(kind: Kind, label: str, value: str) -> None:
    """With it the object is as good as deleted, whatever its value; without it, it is back."""
    catalogue = Catalogue()
    for wanted, other in ((None, label), (label, None), (None, label)):
        text = json.dumps(labelled(kind, wanted, value)).encode()
        (change,) = catalogue.put("one.json", text)
        assert isinstance(change, Change)
        assert (change.kind, change.object is None) == (kind, wanted is not None), other


@pytest.mark.parametrize(
    ("kind", "label"), [(Kind.SERVICE, HEADLESS), (Kind.ENDPOINT_SLICE, PROXY_NAME)]
)
def test_each_label_is_for_its_own_kind(kind: Kind, label: str) -> None:
    """The other kind may bear it without any effect."""
    plain = decode(kind, labelled(kind, None))
    assert plain.object is not None
    assert decode(kind, labelled(kind, label)) == plain


def test_annotations_of_load_balancers_are_not_read() -> None:
    """A10.4: source ranges come from the spec alone; so do hints from the slices alone (A5.1)."""
    made = builders.service()
    plain = decode(Kind.SERVICE, made)
    made["metadata"]["annotations"] = {
        "service.beta.kubernetes.io/load-balancer-source-ranges": "203.0.113.0/24",
        "service.kubernetes.io/topology-mode": "Auto",
    }
    made["spec"]["trafficDistribution"] = "PreferSameNode"
    assert decode(Kind.SERVICE, made) == plain
