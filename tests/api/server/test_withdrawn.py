# SPDX-License-Identifier: Apache-2.0
"""A kind that not every cluster has: ServiceCIDRs, from Kubernetes 1.33 on."""

from __future__ import annotations

import json

import pytest

from tests import builders
from tests.api.server.asking import WatchClient, get
from tests.apiserver import ApiServer, CommandError

GROUP = "/apis/networking.k8s.io/v1"
CIDRS = f"{GROUP}/servicecidrs"


def discovered(server: ApiServer) -> list[str]:
    """Return what the API group is said to have."""
    found = get(server, GROUP).json
    assert (found["kind"], found["groupVersion"]) == ("APIResourceList", "networking.k8s.io/v1")
    return [one["name"] for one in found["resources"]]


def test_service_cidrs_are_listed_and_watched(plain: ApiServer) -> None:
    """At the cluster's scope, as nodes."""
    plain.put(builders.service_cidr())
    listed = get(plain, CIDRS)
    assert listed.names == ["kubernetes"]
    assert (listed.json["kind"], listed.json["apiVersion"]) == (
        "ServiceCIDRList",
        "networking.k8s.io/v1",
    )
    with WatchClient(plain, CIDRS, {"resourceVersion": listed.revision}) as watch:
        plain.put(builders.service_cidr("more", ["9.0.0.0/8"]))
        assert watch.brief() == ("ADDED", "more")
        plain.delete("ServiceCIDR", "", "more")
        assert watch.brief() == ("DELETED", "more")


def test_a_withdrawn_resource_is_not_there(plain: ApiServer) -> None:
    """404 to whoever may ask, 403 to others, and discovery does not know it."""
    plain.put(builders.service_cidr())
    with WatchClient(plain, CIDRS) as watch:
        assert watch.brief() == ("ADDED", "kubernetes")
        plain.withdraw("servicecidrs")
        assert watch.rest() == b""
    refused = get(plain, CIDRS)
    assert (refused.status, refused.json["reason"]) == (404, "NotFound")
    assert discovered(plain) == []
    plain.forbid("servicecidrs")
    assert get(plain, CIDRS).status == 403, "authorization comes first"
    assert discovered(plain) == [], "which every user may know"
    plain.permit("servicecidrs")
    plain.offer("servicecidrs")
    assert get(plain, CIDRS).names == ["kubernetes"]
    assert discovered(plain) == ["servicecidrs"]


def test_discovery_of_the_core_group(plain: ApiServer) -> None:
    """It has no apiVersion, as in a real server; unknown groups are 404."""
    found = get(plain, "/api/v1").json
    assert "apiVersion" not in found
    assert {one["name"] for one in found["resources"]} == {"services", "nodes"}
    assert json.loads(get(plain, "/apis/apps/v1").body)["code"] == 404


def test_what_cannot_be_withdrawn(plain: ApiServer) -> None:
    """A resource that the server never has is a mistake of the test."""
    with pytest.raises(CommandError, match="stores no pods"):
        plain.withdraw("pods")
