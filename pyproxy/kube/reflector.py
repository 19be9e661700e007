# SPDX-License-Identifier: Apache-2.0
"""Keeps one kind of objects equal to the API server's: a list, then watches from where it ended.

Nothing is ever forgotten because of an error: only a whole list, or a DELETED event, removes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from pyproxy.kube.api_meters import CUT, ENDED, ApiMeters
from pyproxy.kube.api_pace import Backoff, Pace
from pyproxy.kube.api_pages import Pages
from pyproxy.kube.api_resources import Resource, is_absent
from pyproxy.kube.api_shelf import Shelf
from pyproxy.kube.api_troubles import SERVER, Troubles
from pyproxy.kube.api_wire import (
    ListMeta,
    ListPage,
    Object,
    ObjectMeta,
    WatchEvent,
    is_older,
    status_in,
)
from pyproxy.kube.client import Answer, ApiFailure, Cause, Line, failure_of
from pyproxy.kube.events import Event, Put

# So many watches in a row that ended at once are no coincidence.
_MOST_SHORT = 3
# API servers send bookmarks: so many watches in a row without a word never will say one.
_MOST_MUTE = 2
_OF_THE_SERVER = (Cause.UNREACHABLE, Cause.SILENT, Cause.UNAUTHORIZED, Cause.CREDENTIALS)


class Clocks(NamedTuple):
    """`now` in seconds since the epoch, `monotonic` in seconds, `random` from 0 to below 1."""

    now: Callable[[], float]
    monotonic: Callable[[], float]
    random: Callable[[], float]


class _End:
    """How a watch ended: was a word heard, was it cut off, was it silent for too long."""

    heard = cut = silent = False

    @property
    def cause(self) -> str:
        """Why, in a metric's word."""
        if self.silent:
            return Cause.SILENT.value
        return CUT if self.cut else ENDED


class Reflector:
    """Follows one resource. run() is the body of its thread.

    `listed` is called once a list, and where there is none to wait for.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        line: Line,
        put: Put,
        listed: Callable[[], None],
        troubles: Troubles,
        stopping: threading.Event,
        pace: Pace,
        clocks: Clocks,
        meters: ApiMeters,
    ) -> None:
        self._resource = resource
        self._source = f"{SERVER}: {resource.plural}"
        self._shelf = Shelf(resource.kind, resource.only)
        self._line = line
        self._put = put
        self._listed = listed
        self._troubles = troubles
        self._stopping = stopping
        self._pace = pace
        self._clocks = clocks
        self._meters = meters
        self._backoff = Backoff(pace, clocks.random)
        self._rarely = Backoff(pace.of_absent, clocks.random)
        self._pages = Pages(self._page, self._take, pace.page)
        self._position = ""
        self._doubtful = False
        self._short = 0
        self._mute = 0
        self._verb = "list"
        self._asked_at = 0.0

    def run(self) -> None:
        """Follow the resource until `stopping` is set."""
        with contextlib.closing(self._line):
            while not self._stopping.is_set():
                self._stopping.wait(self._turn() + self._backoff.next_s())

    def _turn(self) -> float:
        """Do one step; return how many seconds to leave the server alone.

        Between turns there is always a pause besides: see Backoff.
        """
        try:
            return self._list_and_watch()
        except Exception:
            # A connection that stop() cut may break in ways that no library foresees.
            if not self._stopping.is_set():
                raise
        return 0.0

    def _list_and_watch(self) -> float:
        """List if need be, and watch until the watch ends."""
        try:
            if self._doubtful and self._position:
                self._check_position()
            if not self._position:
                self._position = self._list()
                self._rarely.reset()
                self._listed()
            self._watch()
        except ApiFailure as failure:
            if self._verb == "watch":
                self._meters.restarted(self._resource.plural, failure.cause.value)
            if not self._stopping.is_set():
                return self._do_without() if self._lacks(failure) else self._note(failure)
        return 0.0

    # lists

    def _list(self) -> str:
        """Take in the whole list, page by page; return its resourceVersion."""
        self._verb = "list"
        if not self._pages.is_begun:
            self._shelf.begin_list()
        position = self._pages.read()
        self._put_all(self._shelf.end_list())
        self._meters.listed(self._resource.plural)
        return position

    def _take(self, document: msgspec.Raw) -> None:
        self._put_all(self._shelf.put_listed(document))

    def _page(self, query: Mapping[str, str]) -> ListPage:
        with self._get(query, self._pace.answer_s) as answer:
            text = answer.read()
        try:
            page = msgspec.json.decode(text, type=ListPage)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ApiFailure(Cause.FAILING, f"answers with what is no list: {error}") from error
        # An empty list means that everything is gone, so nothing else may pass for one.
        if page.kind != f"{self._resource.kind.value}List":
            raise ApiFailure(Cause.FAILING, f"answers with a {page.kind} instead of a list")
        if not (page.metadata and page.metadata.resource_version):
            raise ApiFailure(Cause.FAILING, "answers with a list without resourceVersion")
        return page

    def _check_position(self) -> None:
        """Ask where the server is, after a watch that was cut or said nothing.

        If it is behind us, a watch would hang for ever without a word: that is a server restored
        from a backup. If it has gone on and watches tell nothing, somebody in between holds them
        back. All there is is listed again then.
        """
        self._verb = "list"
        found = (self._page({"limit": "1"}).metadata or ListMeta()).resource_version or ""
        self._doubtful = False
        if found == self._position:
            return
        if not is_older(self._position, found):
            message = f"is at resourceVersion {found} and was at {self._position}"
        elif self._mute >= _MOST_MUTE:
            message = f"has said nothing in {self._mute} watches, not even a bookmark"
        else:
            return
        self._position = ""
        failure = ApiFailure(Cause.FAILING, f"{message}: listing everything again")
        self._troubles.begin(self._source, self._resource.plural, self._sentence(failure))

    # watches

    def _watch(self) -> None:
        """Take in events until the watch ends."""
        self._verb = "watch"
        # Until it is connected, nothing was shown to be alive; connecting counts as silence.
        started = last = self._clocks.monotonic()
        end = _End()
        with self._open_watch() as answer, self._recovery():
            try:
                for line in answer.lines():
                    last = self._clocks.monotonic()
                    end.heard |= self._take_line(line)
            except ApiFailure as failure:
                # A watch that was cut is only to be resumed.
                if failure.cause not in (Cause.UNREACHABLE, Cause.SILENT):
                    raise
                end.cut, end.silent = True, failure.cause is Cause.SILENT
                if end.silent and end.heard:
                    raise self._silence(self._clocks.monotonic() - last) from None
            finally:
                self._end_watch(self._clocks.monotonic() - started, end)
        if self._short >= _MOST_SHORT:
            raise ApiFailure(Cause.FAILING, f"ended {self._short} watches in a row at once")
        self._meters.restarted(self._resource.plural, end.cause)

    def _open_watch(self) -> Answer:
        pace = self._pace
        length = pace.watch_least_s + self._clocks.random() * (
            pace.watch_most_s - pace.watch_least_s
        )
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._position,
            "timeoutSeconds": str(max(1, round(length))),
        }
        return self._get(query, pace.silence_s)

    @contextlib.contextmanager
    def _recovery(self) -> Iterator[None]:
        """Call troubles over: at once, or after a while if watches ended early before."""
        if self._mute >= _MOST_MUTE:
            # only a word ends that
            yield
            return
        if not self._short:
            self._recovered()
            yield
            return
        timer = threading.Timer(self._pace.settled_s, self._recovered)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _recovered(self) -> None:
        self._troubles.end(self._source, self._resource.plural)

    def _take_line(self, line: bytes) -> bool:
        """Take in one event; return whether there was one."""
        if not line.strip():
            return False
        try:
            event = msgspec.json.decode(line, type=WatchEvent)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ApiFailure(Cause.FAILING, f"sends garbage ({line[:40]!r}): {error}") from error
        if event.type == "ERROR":
            status = status_in(event.object)
            raise failure_of(status, status.code or 500)
        if event.type in ("ADDED", "MODIFIED"):
            self._put_all(self._shelf.put(event.object))
        elif event.type == "DELETED":
            self._put_all(self._shelf.drop(event.object))
        self._advance(event.object)
        if self._mute:
            self._mute = 0
            self._recovered()
        return True

    def _advance(self, document: msgspec.Raw) -> None:
        """Remember where to resume; bookmarks are there for nothing else."""
        try:
            meta = msgspec.json.decode(document, type=Object).metadata or ObjectMeta()
        except (msgspec.MsgspecError, RecursionError):
            return
        version = meta.resource_version or ""
        if version and not is_older(version, self._position):
            self._position = version

    def _end_watch(self, lived_s: float, end: _End) -> None:
        """Draw conclusions from how the watch went."""
        self._doubtful = end.cut or not end.heard
        self._mute += end.silent and not end.heard
        if lived_s >= self._pace.settled_s:
            self._short = 0
            self._backoff.reset()
            return
        self._short += 1
        if self._short >= _MOST_SHORT and not end.heard:
            self._position = ""  # perhaps it is our resourceVersion that ends them

    def _silence(self, silent_s: float) -> ApiFailure:
        """Return the failure of a watch that spoke once: one that never did may just be quiet."""
        message = f"said nothing for {silent_s:.0f} s, not even a bookmark"
        return ApiFailure(Cause.FAILING, message, since=self._clocks.now() - silent_s)

    # failures

    def _lacks(self, failure: ApiFailure) -> bool:
        """Whether the server has no such resource, and nothing depends on it."""
        resource = self._resource
        return bool(resource.without) and is_absent(
            resource, failure.cause, self._line, self._pace.answer_s
        )

    def _do_without(self) -> float:
        """Go on without the resource; return after how many seconds to ask for it again.

        That is how such a cluster is, so it is no trouble. What was known stays, as after any
        failure: while a cluster is upgraded, its API servers do not agree.
        """
        self._position = ""
        self._troubles.end(self._source, self._resource.plural)
        self._listed()
        # until then the connection might die without a word
        self._line.close()
        return self._rarely.next_s()

    def _note(self, failure: ApiFailure) -> float:
        """Say what is wrong; return how many seconds the server wants to be left alone."""
        if failure.cause is Cause.EXPIRED:
            self._position = ""
            if self._short < _MOST_SHORT and not self._pages.expires:
                return 0.0
        if failure.cause in (Cause.UNREACHABLE, Cause.SILENT):
            self._doubtful = True
        plural = self._resource.plural
        message = self._sentence(failure) + self._remedy(failure)
        if failure.cause in _OF_THE_SERVER:
            since = self._asked_at if failure.cause is Cause.SILENT else 0.0
            self._troubles.begin(SERVER, plural, message, since)
        else:
            self._troubles.begin(self._source, plural, message, failure.since)
        if failure.cause is Cause.FORBIDDEN and self._resource.without:
            self._listed()
        return min(failure.retry_after_s, self._pace.retry_after_most_s)

    def _sentence(self, failure: ApiFailure) -> str:
        if failure.cause is Cause.CREDENTIALS:
            return failure.message
        return f"{self._line.server or 'the API server'} {failure.message}"

    def _remedy(self, failure: ApiFailure) -> str:
        if failure.cause is Cause.UNAUTHORIZED:
            return ": it refuses our credentials; renew the token or certificate"
        if failure.cause is not Cause.FORBIDDEN:
            return ""
        plural, group = self._resource.plural, self._resource.group
        right = f': allow "{self._verb}" of "{plural}" in API group "{group}" by a ClusterRole'
        return f"{right}; until then {self._resource.without}" if self._resource.without else right

    def _get(self, query: Mapping[str, str], silence_s: float) -> Answer:
        """Make a request; a server that answers, no matter what, is reachable."""
        self._asked_at = self._clocks.now()
        try:
            answer = self._line.get(
                self._resource.path, {**dict(self._resource.selectors), **query}, silence_s
            )
        except ApiFailure as failure:
            if failure.cause not in _OF_THE_SERVER:
                self._troubles.end(SERVER, self._resource.plural)
            raise
        self._troubles.end(SERVER, self._resource.plural)
        return answer

    def _put_all(self, events: Iterator[Event]) -> None:
        for event in events:
            if self._stopping.is_set():
                return
            self._put(event)
