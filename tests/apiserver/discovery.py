# SPDX-License-Identifier: Apache-2.0
"""Which resources an API group has: what every user may ask, whatever else they may not."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from tests.apiserver.answers import Answer, Json, compact
from tests.apiserver.resources import STORED, Resource
from tests.apiserver.routes import no_such_path


def discover(path: str, withdrawn: AbstractSet[str]) -> Answer:
    """Answer /api/v1 or /apis/GROUP/VERSION; raises ApiError (404) for any other path."""
    group = [one for one in STORED if one.base == path]
    if not group:
        raise no_such_path()
    found = [_entry(one) for one in group if one.plural not in withdrawn]
    head = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if group[0].group else {})
    body = head | {"groupVersion": group[0].api_version, "resources": found}
    return Answer(200, compact(body) + b"\n")


def _entry(resource: Resource) -> Json:
    return {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["get", "list", "watch"],
    }
