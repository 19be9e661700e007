# SPDX-License-Identifier: Apache-2.0
"""Events that agents report: checked, completed, kept for inspection."""

from __future__ import annotations

import json
import secrets
import time
import uuid

from tests.apiserver.answers import Answer, Json, bad_request, compact, refusal
from tests.apiserver.routes import Route
from tests.apiserver.state import State

# What events.k8s.io asks for beyond v1 (pkg/apis/core/validation/events.go), with the most bytes.
_REQUIRED = {
    "eventTime": 64,
    "reportingController": 63,
    "reportingInstance": 128,
    "action": 128,
    "reason": 128,
    "type": 7,
}
_NOTE_BYTES = 1024


def record_event(state: State, route: Route, body: bytes) -> Answer:
    """Keep an Event and answer 201 with it; raises ApiError (400, 409, 422) for what cannot be."""
    assert route.resource is not None
    try:
        event = json.loads(body)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    wanted = {"kind": "Event", "apiVersion": route.resource.api_version}
    # The path says what a body without kind and apiVersion is, as the Python client sends it.
    if not isinstance(event, dict) or any(
        event.get(key, wanted[key]) != wanted[key] for key in wanted
    ):
        raise bad_request(f"the body is no {wanted['apiVersion']} Event: {body[:200]!r}")
    event = {**wanted, **event}
    metadata = event.setdefault("metadata", {})
    if metadata.setdefault("namespace", route.namespace) != route.namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not metadata.get("name"):
        if not metadata.get("generateName"):
            message = 'Event "" is invalid: metadata.name: Required value: name or generateName'
            raise refusal(422, "Invalid", f"{message} is required", route.details)
        metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
    _check_new(state, route, event)
    state.history.advance(state.history.revision + 1)
    metadata["uid"] = str(uuid.uuid4())
    metadata["resourceVersion"] = str(state.history.revision)
    metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state.events.append(event)
    state.moved()
    return Answer(201, compact(event) + b"\n")


def _check_new(state: State, route: Route, event: Json) -> None:
    """Raise ApiError (422) for an Event that lacks something, (409) for a name that is taken."""
    assert route.resource is not None
    name = event["metadata"]["name"]
    if route.resource.group:
        limits = _REQUIRED | {"note": _NOTE_BYTES}
        for field, most in limits.items():
            value = event.get(field, "" if field in _REQUIRED else "-")
            if not value or len(value.encode()) > most:
                message = f'Event.events.k8s.io "{name}" is invalid: {field}: {value!r}'
                raise refusal(422, "Invalid", message, route.details)
    taken = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in state.events}
    if (route.namespace, name) in taken:
        message = f'{route.resource.qualified} "{name}" already exists'
        raise refusal(409, "AlreadyExists", message, {"name": name, **route.details})
