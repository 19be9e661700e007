# SPDX-License-Identifier: Apache-2.0
"""Sends a watch its lines until it ends: by its time, by its client, or by a fault."""

from __future__ import annotations

import asyncio

from tests.apiserver.answers import Answer, too_large
from tests.apiserver.faults import OF_LINES, Fault, lie_in_line
from tests.apiserver.http1 import Exchange
from tests.apiserver.listing import NotReachedError
from tests.apiserver.routes import Route
from tests.apiserver.state import State
from tests.apiserver.watching import Line, Terms, Watch, gone_error, parse_terms

STREAM = Answer(200, b"")


async def wait_for_revision(state: State, revision: int) -> None:
    """Wait as long as the API server does; raises ApiError (504) when that is in vain."""
    timeout_s = state.settings.future_list_wait * state.settings.second_s
    if not await state.reaches(revision, timeout_s):
        raise too_large(revision, state.history.revision)


async def stream_watch(
    state: State, route: Route, out: Exchange, reader: asyncio.StreamReader
) -> None:
    """Answer a watch until it ends; raises ApiError before anything is sent."""
    assert route.resource is not None
    terms = parse_terms(route.resource, route.namespace, out.request.query)
    if state.gone_as_status and (error := gone_error(terms, state.history)):
        raise error
    watch = Watch(terms)
    try:
        watch.open(state.history)
    except NotReachedError as late:
        await wait_for_revision(state, late.revision)
        watch = Watch(terms)
        watch.open(state.history)
    # Nothing is awaited between reading the history and standing in line for its changes.
    state.watches[watch] = out.reset
    timers = _timers(state, watch, terms)
    # The client says nothing more: a read returns when it has closed.
    listening = asyncio.create_task(_end_with(reader, watch))
    try:
        out.begin(STREAM)
        is_at_its_end = await _stream(state, watch, out)
    finally:
        state.watches.pop(watch, None)
        for timer in timers:
            timer.cancel()
        # Before the end is sent: the next thing to read is the client's next request.
        listening.cancel()
        await asyncio.wait([listening])
    if is_at_its_end:
        await out.finish()


def _timers(state: State, watch: Watch, terms: Terms) -> list[asyncio.TimerHandle]:
    """Bookmarks at intervals and two seconds before the end, as the API server's cacher has it."""
    loop, settings = asyncio.get_running_loop(), state.settings
    seconds = terms.timeout_s or settings.watch_seconds
    timers = [loop.call_later(seconds * settings.second_s, watch.end)]

    def bookmark() -> None:
        watch.bookmark(state.history.revision)

    if terms.bookmarks and seconds > 2:
        timers.append(loop.call_later((seconds - 2) * settings.second_s, bookmark))

    def each_interval() -> None:
        bookmark()
        timers[-1] = loop.call_later(settings.bookmark_interval * settings.second_s, each_interval)

    if terms.bookmarks and settings.bookmark_interval < seconds - 2:
        interval_s = settings.bookmark_interval * settings.second_s
        timers.append(loop.call_later(interval_s, each_interval))
    return timers


async def _end_with(reader: asyncio.StreamReader, watch: Watch) -> None:
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionError:
        pass
    watch.client_is_gone = True
    watch.end()


async def _stream(state: State, watch: Watch, out: Exchange) -> bool:
    """Send lines as they come; return whether the answer is now to be ended cleanly."""
    resource = watch.terms.resource.plural
    while True:
        line = await watch.lines.get()
        if watch.client_is_gone:
            out.is_over = True
            return False
        if watch.silent:
            continue
        if line is None:
            return True
        fault = state.faults.take(resource, "watch", OF_LINES)
        if fault and fault.kind == "cut":
            return await _cut(line, fault, out)
        await _send_line(line, fault, out)


async def _cut(line: Line, fault: Fault, out: Exchange) -> bool:
    if fault.at == "chunk":
        await out.half_chunk(line.text)
        return False
    await out.chunk(line.text[: len(line.text) // 2])
    return True


async def _send_line(line: Line, fault: Fault | None, out: Exchange) -> None:
    if fault is None:
        await out.chunk(line.text)
    elif fault.kind == "slow":
        await out.slow_chunk(line.text, fault.size, fault.pause_s)
    else:
        for text in lie_in_line(line, fault.how):
            await out.chunk(text)
