# SPDX-License-Identifier: Apache-2.0
"""What is known of the objects of one kind: lists and watch events in, changes out. Pure.

A change is told only where something that is used has changed, so that heartbeats of a Node
and annotations cost the planner nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from pyproxy.errors import SourceError
from pyproxy.kube.api_wire import Object, ObjectMeta, is_older
from pyproxy.kube.decode import decode, name_of, reference, typed
from pyproxy.kube.events import ANY_SERVICE, Change, Event, Kind, Record, Report
from pyproxy.model import ObjectName

# Deleted objects whose resourceVersion is kept, so that late news of them revive nothing.
_MOST_GONE = 1024


class _Known(NamedTuple):
    """An object's resourceVersion and its last good record."""

    version: str
    record: Record | None


class Shelf:
    """The objects of a kind; `only` is the name of the only one that is wanted ("": all)."""

    def __init__(self, kind: Kind, only: str = "") -> None:
        self._kind = kind
        self._only = only
        self._known: dict[ObjectName, _Known] = {}
        self._gone: dict[ObjectName, str] = {}
        self._reports: dict[str, str] = {}
        self._seen: set[ObjectName] = set()
        self._wrong: set[str] = set()
        self._unsure = False

    def begin_list(self) -> None:
        """Expect all objects that there are, by put_listed()."""
        self._seen.clear()
        self._wrong.clear()
        self._unsure = False

    def put_listed(self, document: msgspec.Raw) -> Iterator[Event]:
        """Take a member of a list. It counts whatever its resourceVersion: servers get restored."""
        yield from self._put(document, listed=True)

    def end_list(self) -> Iterator[Event]:
        """Let go of all that the whole list did not show.

        Nothing is let go of where the list has members that cannot be told by name.
        """
        self._gone.clear()
        missing = [name for name in self._known if name not in self._seen]
        for name in [] if self._unsure else missing:
            yield from self._forget(name)
        self._seen = set()
        # first, or what is still missing would be called mended for a moment
        yield from self._look_for_the_only()
        for source in [source for source in self._reports if source not in self._wrong]:
            yield from self._report(source, "")

    def put(self, document: msgspec.Raw) -> Iterator[Event]:
        """Take an object as a watch shows it; what is older than what is known is passed over."""
        yield from self._put(document, listed=False)

    def drop(self, document: msgspec.Raw) -> Iterator[Event]:
        """Take the last state of an object that is gone."""
        head, name = self._identify(document)
        if name is None:
            yield from self._complain(document, head)
        elif not self._is_old(name, _version(head)):
            self._gone[name] = _version(head)
            if len(self._gone) > _MOST_GONE:
                del self._gone[next(iter(self._gone))]
            yield from self._forget(name)
            yield from self._look_for_the_only()

    def _put(self, document: msgspec.Raw, *, listed: bool) -> Iterator[Event]:
        head, name = self._identify(document)
        if name is None:
            self._unsure |= listed
            yield from self._complain(document, head)
            return
        if listed:
            self._seen.add(name)
        version = _version(head)
        if listed or not self._is_old(name, version):
            self._gone.pop(name, None)
            yield from self._settle(name, version, document)

    def _settle(self, name: ObjectName, version: str, document: msgspec.Raw) -> Iterator[Event]:
        """Make an object count; of a malformed one the last good version goes on to count."""
        before = self._known.get(name, _Known("", None))
        source = reference(self._kind, name)
        try:
            _, name, record, trigger_time = decode(self._kind, document)
        except SourceError as error:
            self._known[name] = before._replace(version=version)
            is_missing = self._kind is Kind.SERVICE and before.record is None
            yield from self._report(source, str(error), name if is_missing else None)
            return
        is_new = record != before.record
        # of two equal records the one that others hold too, or a list would double them all
        self._known[name] = _Known(version, record if is_new else before.record)
        yield from self._report(source, "")
        if is_new:
            yield Change(self._kind, name, record, trigger_time)

    def _forget(self, name: ObjectName) -> Iterator[Event]:
        known = self._known.pop(name, None)
        if known and known.record is not None:
            yield Change(self._kind, name, None)
        yield from self._report(reference(self._kind, name), "")

    def _identify(self, document: msgspec.Raw) -> tuple[Object, ObjectName | None]:
        """Return what says which object it is; no name where it is none of those wanted.

        A head that is malformed itself does not keep an object from being known by its name.
        """
        head = Object()
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            head = typed(document, Object)
        if head.kind not in (None, self._kind.value):
            return head, None
        try:
            name = name_of(self._kind, document)
        except (msgspec.MsgspecError, RecursionError):
            return head, None
        return head, None if self._only and name.name != self._only else name

    def _is_old(self, name: ObjectName, version: str) -> bool:
        known = self._known.get(name)
        return is_older(version, known.version if known else self._gone.get(name, ""))

    def _complain(self, document: msgspec.Raw, head: Object) -> Iterator[Event]:
        """Report what was not asked for, or cannot be told by name; it is in force until a list."""
        lacks = ANY_SERVICE if self._kind is Kind.SERVICE else None
        if head.kind not in (None, self._kind.value):
            source, found = f"{head.kind} among {self._kind.value}s", f"a {head.kind}"
        else:
            source = f"{self._kind.value} without a usable name"
            found = f"an object of no or a foreign name ({bytes(document)[:80]!r}...)"
        message = f"the API server sent {found} when asked for {self._kind.value}s; it is ignored"
        yield from self._report(source, message, lacks)

    def _look_for_the_only(self) -> Iterator[Event]:
        if self._only and not self._known:
            message = (
                "the API server knows no such object; until it does, nothing that depends on it"
                " works: check --hostname-override"
            )
            yield from self._report(reference(self._kind, ObjectName("", self._only)), message)

    def _report(
        self, source: str, message: str, lacks: ObjectName | None = None
    ) -> Iterator[Event]:
        if message:
            self._wrong.add(source)
        if message == self._reports.get(source, ""):
            return
        if message:
            self._reports[source] = message
        else:
            del self._reports[source]
        yield Report(source, message, lacks)


def _version(head: Object) -> str:
    return (head.metadata or ObjectMeta()).resource_version or ""
