# SPDX-License-Identifier: Apache-2.0
"""Events that agents report: checked, completed, kept for inspection."""

from __future__ import annotations

import json
import secrets
import time
import uuid

from tests.apiserver.answers import Answer, bad_request, compact, refusal
from tests.apiserver.routes import Route
from tests.apiserver.state import State


def record_event(state: State, route: Route, body: bytes) -> Answer:
    """Keep an Event and answer 201 with it; raises ApiError (400, 422) for what is none."""
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
    state.history.advance(state.history.revision + 1)
    metadata["uid"] = str(uuid.uuid4())
    metadata["resourceVersion"] = str(state.history.revision)
    metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state.events.append(event)
    state.moved()
    return Answer(201, compact(event) + b"\n")
