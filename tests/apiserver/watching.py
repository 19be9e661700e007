# SPDX-License-Identifier: Apache-2.0
"""Watches: which lines a watch is sent, in which order. Sending them is the front's business.

Rules recorded from an API server 1.36: an object that leaves the selector is DELETED in its last
selected form with the revision of the change; a resourceVersion that is gone is an ERROR event in
an answer of status 200; a resourceVersion not reached yet is silence (reference 07).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from tests.apiserver.answers import (
    ApiError,
    Json,
    bad_request,
    compact,
    gone,
    gone_text,
    invalid_option,
    refusal,
)
from tests.apiserver.history import Change, CompactedError, Entry, History
from tests.apiserver.listing import NotReachedError, parse_number, parse_revision
from tests.apiserver.resources import Resource
from tests.apiserver.selectors import Selector, parse_selector

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
TRUE = frozenset({"1", "true", "True", "TRUE", "t", "T"})


class Line(NamedTuple):
    """An event as sent; `older` is the same object before it, for servers that lie."""

    kind: str
    text: bytes
    older: bytes


class Terms(NamedTuple):
    """What a watch asks for. `revision` None stands for "as it is now"; seconds may be 0: unset."""

    resource: Resource
    selector: Selector
    revision: int | None
    bookmarks: bool
    initial_events: bool | None
    timeout_s: int


def is_true(text: str | None) -> bool:
    """Say whether a query option is set."""
    return text in TRUE


def parse_terms(resource: Resource, namespace: str, query: Mapping[str, str]) -> Terms:
    """Return a watch's terms; raises ApiError (400, 422)."""
    _check_options(query)
    text = query.get("resourceVersion", "")
    initial = query.get("sendInitialEvents")
    return Terms(
        resource=resource,
        selector=parse_selector(resource, namespace, query),
        revision=parse_revision(text) or None,
        bookmarks=is_true(query.get("allowWatchBookmarks")),
        initial_events=None if initial is None else is_true(initial),
        timeout_s=parse_number(query, "timeoutSeconds"),
    )


def _check_options(query: Mapping[str, str]) -> None:
    option = "resourceVersionMatch"
    match, initial = query.get(option, ""), query.get("sendInitialEvents")
    if initial is not None and match != "NotOlderThan":
        message = f"sendInitialEvents requires setting {option} to NotOlderThan"
        raise invalid_option(option, message)
    if match and initial is None:
        message = f"{option} is forbidden for watch unless sendInitialEvents is provided"
        raise invalid_option(option, message)
    if query.get("continue"):
        raise bad_request("continue is forbidden for watch")


class Watch:
    """One client's watch; `lines` is what it is to be sent, None ends it cleanly.

    `silent`: nothing more is ever sent, and the connection stays open.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.lines: asyncio.Queue[Line | None] = asyncio.Queue()
        self.silent = False
        self.client_is_gone = False
        self._seen = 0

    def open(self, history: History) -> None:
        """Queue what is due at once; raises NotReachedError for a streaming list of the future."""
        terms = self.terms
        wants_state = (
            terms.revision is None if terms.initial_events is None else (terms.initial_events)
        )
        if not wants_state:
            self._replay(history, terms.revision or history.revision)
            return
        if terms.revision and terms.revision > history.revision:
            raise NotReachedError(terms.revision)
        for entry in history.at(terms.resource, history.revision):
            if self._wants(entry):
                self._event("ADDED", entry, entry.revision, entry)
        self._seen = history.revision
        if terms.initial_events and terms.bookmarks:
            self._bookmark(history.revision, {"annotations": {INITIAL_EVENTS_END: "true"}})

    def offer(self, change: Change) -> None:
        """Queue the line that a change means for this watch, if any."""
        if change.revision <= self._seen:
            return
        before = change.before if self._wants(change.before) else None
        after = change.after if self._wants(change.after) else None
        if after:
            kind = "MODIFIED" if before else "ADDED"
            self._event(kind, after, change.revision, change.before or after)
        elif before:
            self._event("DELETED", before, change.revision, before)

    def bookmark(self, revision: int) -> None:
        """Queue a bookmark, if this watch takes them and has reached where it started."""
        if self.terms.bookmarks and revision >= self._seen:
            self._bookmark(revision, {})

    def end(self) -> None:
        """End it once everything queued is sent."""
        self.lines.put_nowait(None)

    def _replay(self, history: History, revision: int) -> None:
        self._seen = revision
        try:
            changes = history.since(self.terms.resource, revision)
        except CompactedError:
            error = b'{"type":"ERROR","object":%b}\n' % compact(gone(revision, history.compacted))
            self.lines.put_nowait(Line("ERROR", error, error))
            self.end()
            return
        for change in changes:
            self.offer(change)

    def _wants(self, entry: Entry | None) -> bool:
        return entry is not None and self.terms.selector.matches(
            entry.namespace, entry.labels, entry.fields
        )

    def _event(self, kind: str, entry: Entry, revision: int, older: Entry) -> None:
        resource = self.terms.resource
        text = event_line(resource, kind, entry.encoded(revision))
        old = event_line(resource, "MODIFIED", older.encoded(max(older.revision - 1, 1)))
        self.lines.put_nowait(Line(kind, text, old))

    def _bookmark(self, revision: int, more: Json) -> None:
        metadata = {"resourceVersion": str(revision), **more}
        body = compact({"metadata": metadata, **self.terms.resource.empty})
        line = event_line(self.terms.resource, "BOOKMARK", body)
        self.lines.put_nowait(Line("BOOKMARK", line, line))


def event_line(resource: Resource, kind: str, body: bytes) -> bytes:
    """Return a line of a watch; `body` is an object's JSON without kind and apiVersion."""
    head = compact({"kind": resource.kind, "apiVersion": resource.api_version})[:-1]
    return b'{"type":"%b","object":%b,%b}\n' % (kind.encode(), head, body[1:])


def gone_error(terms: Terms, history: History) -> ApiError | None:
    """Return 410 as a status, for a watch that starts before the compaction."""
    if terms.revision is None or terms.revision >= history.compacted or terms.initial_events:
        return None
    return refusal(410, "Expired", gone_text(terms.revision, history.compacted))
