# SPDX-License-Identifier: Apache-2.0
"""Events that clients post are checked, answered as the API server does, and kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.server.asking import Reply, bearer, connect, read_reply
from tests.apiserver import ApiServer

CORE = "/api/v1/namespaces/default/events"
NEW = "/apis/events.k8s.io/v1/namespaces/default/events"

FIELDS = {
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingController": "tester",
    "reportingInstance": "n1",
    "action": "Test",
    "type": "Normal",
}


def event(api_version: str = "v1", kind: str = "Event", **metadata: str) -> dict[str, Any]:
    """Return an Event."""
    named = {"name": "web.1"} | metadata
    fields = {"reason": "Test"} | (FIELDS if api_version != "v1" else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": named, **fields}


def send(server: ApiServer, path: str, body: object, method: str = "POST") -> Reply:
    """Send JSON and read the answer."""
    connection = connect(server)
    try:
        connection.request(method, path, json.dumps(body), bearer(server.token))
        return read_reply(connection)
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "version"), [(CORE, "v1"), (NEW, "events.k8s.io/v1")])
def test_an_event_is_kept(plain: ApiServer, path: str, version: str) -> None:
    """201 with the object completed, and the same in `events`."""
    reply = send(plain, path, event(version))
    assert reply.status == 201
    assert reply.json["metadata"].keys() >= {"uid", "resourceVersion", "creationTimestamp"}
    assert reply.json["metadata"]["namespace"] == "default"
    assert list(plain.events) == [reply.json]


def test_the_path_says_what_it_is(plain: ApiServer) -> None:
    """A body without kind and apiVersion, as the Python client sends it, is an Event."""
    posted = send(plain, CORE, {"metadata": {"name": "web.2"}})
    assert (posted.status, posted.json["kind"], posted.json["apiVersion"]) == (201, "Event", "v1")


def test_a_generated_name(plain: ApiServer) -> None:
    """An Event with generateName gets an end of its own."""
    posted = send(plain, CORE, event(name="", generateName="web."))
    assert posted.json["metadata"]["name"].startswith("web.")
    assert len(posted.json["metadata"]["name"]) > len("web.")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (event(kind="Pod"), 400),
        (event("events.k8s.io/v1"), 400),
        (event(namespace="other"), 400),
        (event(name=""), 422),
        ([], 400),
    ],
)
def test_what_is_no_event(plain: ApiServer, body: object, status: int) -> None:
    """Wrong kinds, namespaces and names are refused and not kept."""
    assert send(plain, CORE, body).status == status
    assert list(plain.events) == []


@pytest.mark.parametrize("path", [CORE, NEW])
def test_a_name_that_is_taken(plain: ApiServer, path: str) -> None:
    """409, and the first one stays; one of the same name in another namespace is another one."""
    version = "v1" if path == CORE else "events.k8s.io/v1"
    assert send(plain, path, event(version)).status == 201
    again = send(plain, path, event(version) | {"reason": "Again"})
    assert (again.status, again.json["reason"]) == (409, "AlreadyExists")
    other = event(version, namespace="other")
    assert send(plain, path.replace("default", "other"), other).status == 201
    assert [one["reason"] for one in plain.events] == ["Test", "Test"]


@pytest.mark.parametrize("field", [*FIELDS, "reason"])
def test_what_an_event_needs(plain: ApiServer, field: str) -> None:
    """events.k8s.io refuses what v1 lets pass (pkg/apis/core/validation/events.go)."""
    lacking = event("events.k8s.io/v1")
    del lacking[field]
    assert send(plain, NEW, lacking).status == 422
    long = event("events.k8s.io/v1") | {"note": "é" * 513}
    assert send(plain, NEW, long).status == 422


def test_nothing_else_is_written(plain: ApiServer) -> None:
    """The tests' server is for reading: other writes are 405, and a forbidden one is 403."""
    assert send(plain, "/api/v1/nodes/n1", {}, "PATCH").status == 405
    assert send(plain, CORE, {}, "GET").status == 405
    plain.forbid("events", "create")
    assert send(plain, CORE, event()).status == 403
