# SPDX-License-Identifier: Apache-2.0
"""Posts Events about Services and this node. Best effort: the log and status say it too.

What is about the node is posted at once, as kube-proxy does it. What is about Services is not
urgent: all nodes of a cluster find out at the same moment, and none knows of the others. So each
waits a random while before it posts, and the Event has the same name everywhere: one node makes it,
the others get 409. Each answer that is no success, 409 included, doubles that while until a success
or a long calm, so that many refused ports, a Service that flaps and a server in need are soon
spared: ten thousand nodes ask 333 times a second for half a minute, and 6 times in the end. A node
alone posts every 15 seconds. Refused: one node that speaks for all (none knows which others run
pyproxy), and looking before posting (kube-proxy's role may not read Events, parity A17.9).
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from pyproxy.kube.api import SYSTEM_CLOCKS
from pyproxy.kube.api_config import ApiSettings, Credentials
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.api_pace import Backoff, Pace
from pyproxy.kube.client import ApiFailure, Cause, Line
from pyproxy.kube.ending import end
from pyproxy.kube.notices import GROUP, Notice, event, node_notice, path_of, port_notice
from pyproxy.kube.reflector import Clocks
from pyproxy.model import ServicePortName

log = logging.getLogger(__name__)

# What there may be at a time; client-go's recorder holds as many. Others wait for their place.
MOST_NOTICES = 1000

# What may be otherwise the next time.
_PASSING = (
    Cause.UNREACHABLE,
    Cause.SILENT,
    Cause.FAILING,
    Cause.UNAUTHORIZED,
    Cause.CREDENTIALS,
)


class Announcer:
    """Posts each notice once, again only after it was gone. tell() never waits for the server.

    A thread lives for as long as there is something to post: most clusters never see it.
    """

    def __init__(
        self,
        settings: ApiSettings,
        node: str,
        *,
        pace: Pace | None = None,
        clocks: Clocks = SYSTEM_CLOCKS,
        meters: ApiMeters | None = None,
    ) -> None:
        self._node = node
        self._pace = pace or Pace()
        self._clocks = clocks
        self._line = Line(Credentials(settings, clocks.now), self._pace.connect_s, meters)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._ports: dict[ServicePortName, Notice] = {}
        self._checks: frozenset[Notice] = frozenset()
        self._once: set[Notice] = set()
        self._urgent: list[Notice] = []
        self._pending: set[Notice] = set()
        self._settled: set[Notice] = set()
        self._backoff = Backoff(self._pace.of_events, clocks.random)
        self._asked_at = -math.inf
        self._tries = 0
        self._complained: set[Cause] = set()

    def tell(
        self, wanted: Mapping[ServicePortName, str], uid_of: Callable[[ServicePortName], str]
    ) -> None:
        """Take all that is not served now (notices.Tell); what is new will be posted."""
        with self._lock:
            if not (wanted or self._ports):
                return
            self._ports = {
                name: self._port(name, uid_of(name), wanted[name]) for name in self._chosen(wanted)
            }
            self._take()

    def tell_checks(self, failures: Iterable[Notice]) -> None:
        """Take all health-check node ports that are not served now; what is new will be posted."""
        with self._lock:
            self._checks = frozenset(islice(failures, MOST_NOTICES))
            self._take()

    def about_node(
        self, reason: str, note: str, *, kind: str = "Warning", wait_s: float = 0.0
    ) -> None:
        """Post an Event about this node once, and at once; `kind` is its type.

        Waits `wait_s` seconds at most until that is done: for who ends then.
        """
        notice = node_notice(self._node, reason, note, kind, self._clocks.now())
        with self._lock:
            self._once.add(notice)
            self._urgent.append(notice)
            self._take()
            self._changed.notify_all()
            if wait_s:
                self._changed.wait_for(
                    lambda: notice not in self._pending or self._stopping.is_set(), wait_s
                )

    def stop(self) -> None:
        """End the thread, whatever it waits for, within ending.STOP_S."""
        with self._lock:
            self._stopping.set()
            self._changed.notify_all()
            threads = [self._thread] if self._thread else []
        end(threads, [self._line])

    def _port(self, name: ServicePortName, uid: str, note: str) -> Notice:
        """Return the notice of a port, the one that there is if it says the same."""
        known = self._ports.get(name)
        if known and (known.uid, known.note) == (uid, note):
            return known
        return port_notice(name, uid, note)

    def _take(self) -> None:
        """Find out what is to be posted, and begin with it; the lock is held."""
        wanted = {*self._checks, *self._ports.values(), *self._once}
        self._settled &= wanted
        self._pending = wanted - self._settled
        if self._pending and self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._run, name="api-events", daemon=True)
            self._thread.start()

    def _chosen(self, wanted: Mapping[ServicePortName, str]) -> list[ServicePortName]:
        """Return what there is room for: what has a place keeps it."""
        known = [name for name in wanted if name in self._ports]
        others = (name for name in wanted if name not in self._ports)
        return [*known, *islice(others, MOST_NOTICES - len(known))]

    def _run(self) -> None:
        if self._clocks.monotonic() - self._asked_at >= self._pace.event_calm_s:
            self._backoff.reset()
        asked_s = 0.0
        while self._has_work():
            if self._pause(asked_s + self._backoff.next_s()):
                return
            notice = self._pick()
            asked_s = self._post(notice) if notice else 0.0

    def _pause(self, seconds: float) -> bool:
        """Wait, but for what is urgent; return whether to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or self._urgent, seconds)
        return self._stopping.is_set()

    def _has_work(self) -> bool:
        """Say whether to go on; if not, the thread is as good as gone."""
        with self._lock:
            if not self._pending:
                self._thread = None
            return bool(self._pending)

    def _pick(self) -> Notice | None:
        """Return what is urgent, once, else any: nodes that began with the same would only meet."""
        with self._lock:
            if self._urgent:
                return self._urgent.pop(0)
            place = int(self._clocks.random() * len(self._pending))
            return next(islice(self._pending, place, None), None)

    def _post(self, notice: Notice) -> float:
        """Try to post; return how many seconds the server wants to be left alone."""
        self._asked_at = self._clocks.monotonic()
        try:
            document = event(notice, self._node, self._clocks.now())
            # the next one is far away, so the connection is not kept
            with contextlib.closing(self._line):
                self._line.post(path_of(notice), document, self._pace.answer_s)
        except ApiFailure as failure:
            return 0.0 if self._stopping.is_set() else self._note(notice, failure)
        except Exception:
            # A connection that stop() cut may break in ways that no library foresees; and no
            # Event is worth the agent, which ends when a thread of its own does.
            if not self._stopping.is_set():
                log.exception("no Event about %s", _subject(notice))
            self._settle(notice)
            return 0.0
        self._settle(notice)
        self._answered()
        self._backoff.reset()
        return 0.0

    def _note(self, notice: Notice, failure: ApiFailure) -> float:
        if failure.cause is Cause.EXISTS:
            self._settle(notice)
            self._answered()
            return 0.0
        self._tries += 1
        if failure.cause not in _PASSING or self._tries >= self._pace.event_tries:
            self._give_up(notice, failure)
        return min(failure.retry_after_s, self._pace.event_most_s)

    def _answered(self) -> None:
        """Begin anew: the server takes Events."""
        self._tries = 0
        self._complained.clear()

    def _give_up(self, notice: Notice, failure: ApiFailure) -> None:
        self._settle(notice)
        self._tries = 0
        if failure.cause in self._complained:
            return
        self._complained.add(failure.cause)
        server = "" if failure.cause is Cause.CREDENTIALS else f"{self._line.server} "
        remedy = ""
        if failure.cause is Cause.FORBIDDEN:
            remedy = f': allow "create" of "events" in API group "{GROUP}" by a ClusterRole'
        log.warning(
            "no Event about %s: %s%s%s; others that fail so are not named",
            _subject(notice),
            server,
            failure.message,
            remedy,
        )

    def _settle(self, notice: Notice) -> None:
        """Note that there is no more to do, unless the notice is gone meanwhile."""
        with self._lock:
            if notice in self._once:
                self._once.discard(notice)
                self._pending.discard(notice)
            elif notice in self._pending:
                self._pending.discard(notice)
                self._settled.add(notice)
            self._changed.notify_all()


def _subject(notice: Notice) -> str:
    """Return what an Event is about, in as few words as will do."""
    name = str(notice.name) if notice.name.namespace else notice.name.name
    return (
        notice.subject if notice.kind == "Service" and notice.subject else f"{notice.kind} {name}"
    )
