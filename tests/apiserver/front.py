# SPDX-License-Identifier: Apache-2.0
"""Answers requests: who, may they, what goes wrong, then the list, the watch or the object."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.apiserver.answers import (
    Answer,
    ApiError,
    compact,
    fault_answer,
)
from tests.apiserver.discovery import discover
from tests.apiserver.faults import OF_LINES, OF_REQUESTS, Fault, lie_in_body
from tests.apiserver.http1 import Exchange, HttpRequest
from tests.apiserver.listing import NotReachedError, list_answer
from tests.apiserver.posting import record_event
from tests.apiserver.resources import EVENTS
from tests.apiserver.routes import Route, find_route, no_such_path, not_allowed
from tests.apiserver.settings import Seen
from tests.apiserver.state import State
from tests.apiserver.streaming import STREAM, stream_watch, wait_for_revision

VERSION = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
}


async def respond(
    state: State, out: Exchange, reader: asyncio.StreamReader, certificate: Mapping[str, Any] | None
) -> None:
    """Answer one request of a client whose certificate (None: it has none) the handshake took."""
    request = out.request
    route = find_route(request.method, request.path, request.query)
    index = len(state.seen)
    state.seen.append(_seen(request, route))
    generation = state.seen

    def note(**more: Any) -> None:
        if generation is state.seen:
            state.seen[index] = state.seen[index]._replace(**more)

    out.on_status(lambda status: note(status=status))
    is_watch = route.verb == "watch"
    kinds = OF_REQUESTS if is_watch else OF_REQUESTS | OF_LINES
    fault = state.faults.take(route.plural, route.verb, kinds)
    if fault and fault.kind in OF_REQUESTS:
        await _do_not_serve(fault, out, reader, is_watch=is_watch)
        return
    try:
        user = state.auth.identify(request.headers, certificate)
        note(user=user)
        state.auth.authorize(route, user)
        if route.plural in state.withdrawn:
            raise no_such_path()
        if is_watch and route.resource:
            await stream_watch(state, route, out, reader)
            return
        answer = await _answer(state, route, request)
    except ApiError as error:
        answer = error.answer
    await _send(answer, fault, out)


def _seen(request: HttpRequest, route: Route) -> Seen:
    return Seen(
        request.method,
        request.path,
        request.query,
        request.headers,
        status=0,
        user="",
        verb=route.verb,
        resource=route.plural,
    )


async def _do_not_serve(
    fault: Fault, out: Exchange, reader: asyncio.StreamReader, *, is_watch: bool
) -> None:
    if fault.kind == "answer":
        await out.answer(fault_answer(fault.status, fault.retry_after))
        return
    if fault.headers and is_watch:
        out.begin(STREAM)
    # Say nothing for as long as the client listens.
    while await reader.read(1 << 16):
        pass
    out.is_over = True


async def _send(answer: Answer, fault: Fault | None, out: Exchange) -> None:
    if fault is None:
        await out.answer(answer)
    elif fault.kind == "slow":
        await out.slow_answer(answer, fault.size, fault.pause_s)
    elif fault.kind == "cut" and fault.at == "chunk":
        await out.answer_half(answer)
    else:
        how = "half" if fault.kind == "cut" else fault.how
        await out.answer(answer._replace(body=lie_in_body(answer.body, how)), as_is=True)


async def _answer(state: State, route: Route, request: HttpRequest) -> Answer:
    if route.resource is None:
        return _plain(state, route)
    if route.resource in EVENTS:
        if route.verb != "create" or route.name or not route.namespace:
            raise not_allowed()
        return record_event(state, route, request.body)
    if route.verb == "list":
        return await _list(state, route, request.query)
    if route.verb == "get":
        return _get(state, route)
    raise not_allowed()


def _plain(state: State, route: Route) -> Answer:
    # The Python client asks for /version/.
    if route.path.rstrip("/") == "/version":
        return Answer(200, compact(VERSION) + b"\n")
    if route.path in {"/healthz", "/livez", "/readyz"}:
        return Answer(200, b"ok", content_type="text/plain; charset=utf-8")
    return discover(route.path.rstrip("/"), state.withdrawn)


async def _list(state: State, route: Route, query: Mapping[str, str]) -> Answer:
    assert route.resource is not None
    try:
        return list_answer(state.history, route.resource, route.namespace, query)
    except NotReachedError as error:
        await wait_for_revision(state, error.revision)
        return list_answer(state.history, route.resource, route.namespace, query)


def _get(state: State, route: Route) -> Answer:
    assert route.resource is not None
    entry = state.history.get(route.resource, route.namespace, route.name)
    if entry is None:
        raise route.not_found()
    head = compact({"kind": route.resource.kind, "apiVersion": route.resource.api_version})[:-1]
    return Answer(200, b"%b,%b\n" % (head, entry.encoded()[1:]))
