# SPDX-License-Identifier: Apache-2.0
"""What there is to count in the kernel and of the agent, as metrics of our own.

Everything is read by the thread that scrapes: from pins, as `pyproxy status` does, and from reports
that are never changed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import pyproxy
from pyproxy.agent import kubeproxymetrics as kp
from pyproxy.agent.config import RunConfig
from pyproxy.agent.report import State
from pyproxy.kernel import inspect
from pyproxy.kernel.inspect import MapStatus
from pyproxy.kernel.pins import Pins
from pyproxy.meters import Labels, Reading, Spec, Type

_Found = TypeVar("_Found")

SHARE = 0.01  # of a CPU: a look that takes 20 ms is made once in two seconds, at most


def _counter(name: str, words: str, *labels: str) -> Spec:
    return Spec(f"pyproxy_{name}", Type.COUNTER, words, (*labels, *kp.FAMILY))


def _gauge(name: str, words: str, *labels: str) -> Spec:
    return Spec(f"pyproxy_{name}", Type.GAUGE, words, labels)


DROPPED = _counter(
    "dropped_packets_total", "Packets to or of services that were dropped, and why.", "cause"
)
REFUSED = _counter(
    "refused_total",
    "Connections and datagrams to services without endpoints that were refused: of sockets that "
    "are translated (path socket), and by packets (path packet).",
    "path",
)
TRANSLATED_SOCKETS = _counter(
    "translated_sockets_total", "Sockets that were translated, by the call that did it.", "call"
)
TRANSLATED_PACKETS = _counter(
    "translated_packets_total",
    "Packets that were translated as they came in (ingress), as they left (egress), or on both "
    "sides at once, past the stack (both).",
    "side",
)
OPENED = _counter("packet_connections_total", "Connections that began by packets.")
EVENTS = _counter(
    "events_total", "What else the programs count, by the names of 'pyproxy status'.", "event"
)

# every counter of the programs stands in one of these: a test sees to it
COUNTED: Mapping[str, tuple[Spec, Labels]] = {
    "packet_drop": (DROPPED, ("no_local_endpoints",)),
    "packet_filtered": (DROPPED, ("source_ranges",)),
    "packet_leak": (DROPPED, ("untranslated",)),
    "packet_redirect": (DROPPED, ("icmp_redirect",)),
    "packet_fragment": (DROPPED, ("fragment",)),
    "source_exhausted": (DROPPED, ("source_exhausted",)),
    "table_full": (DROPPED, ("table_full",)),
    "insert_failed": (DROPPED, ("no_memory",)),
    "stale": (DROPPED, ("stale",)),
    "refused": (REFUSED, ("socket",)),
    "packet_refused": (REFUSED, ("packet",)),
    "connect": (TRANSLATED_SOCKETS, ("connect",)),
    "sendmsg": (TRANSLATED_SOCKETS, ("sendmsg",)),
    "packet_in": (TRANSLATED_PACKETS, ("ingress",)),
    "packet_out": (TRANSLATED_PACKETS, ("egress",)),
    "packet_fast": (TRANSLATED_PACKETS, ("both",)),
    "packet_open": (OPENED, ()),
    **{
        name: (EVENTS, (name,))
        for name in (
            "bind_refused", "left_to_drop", "packet_error", "packet_clash", "packet_pass",
            "packet_source", "packet_apart", "packet_back", "source_taken", "table_evicted",
        )
    },
}  # fmt: skip

ENTRIES = _gauge("map_entries", "Entries that a map has.", "map", *kp.FAMILY)
MOST_ENTRIES = _gauge("map_entries_max", "Entries that a map can have.", "map", *kp.FAMILY)
INFO = _gauge("agent_info", "1 for the agent that runs.", "version", "mode", "socket_translation")
SYNCED = _gauge("synced", "Whether everything that there is has been written once (1).")
SERVICES = _gauge("services", "Services that are in the maps.")
ENDPOINTS = _gauge("endpoints", "Backends that are in the maps, of both families.")
NOT_SERVED = _gauge("refused_service_ports", "Service ports that are not in the maps.")
MALFORMED = _gauge("malformed_objects", "Objects and files that cannot be used as they are.")
PROBLEMS = _gauge("problems", "What 'pyproxy status' calls a problem of the agent's.", "code")


class Spared(Generic[_Found]):
    """Calls `read`, and answers as before while a call would cost more than SHARE of a CPU.

    One caller at a time: the others wait and get the same.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[_Found]],
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._read = read
        self._clock, self._cpu_clock = clock, cpu_clock
        self._lock = threading.Lock()
        self._answer: tuple[_Found, ...] = ()
        self._due = -1.0

    def __call__(self) -> tuple[_Found, ...]:
        """Return what was read, now or a moment ago."""
        with self._lock:
            if self._clock() >= self._due:
                started = self._cpu_clock()
                self._answer = tuple(self._read())
                self._due = self._clock() + (self._cpu_clock() - started) / SHARE
            return self._answer


class Figures:
    """Readings from the kernel, none before `pins` are known; `books` are the agent's own.

    What the agent writes is counted by its books: to read 100,000 endpoints back takes half a
    second of a CPU, and whether they are still there is looked at once a syncPeriod.
    """

    def __init__(self, books: Callable[[], Iterable[MapStatus]]) -> None:
        self._books = books
        self.pins: tuple[Pins, ...] = ()
        self._tables = Spared(self._read_tables)

    def counters(self) -> Iterator[Reading]:
        """Yield what the programs have counted."""
        found: dict[Spec, dict[Labels, float]] = {}
        for pins in self.pins:
            for name, value in inspect.counters(pins).items():
                spec, labels = COUNTED[name]
                found.setdefault(spec, {})[(*labels, pins.family.label)] = value
        return (Reading(*each) for each in found.items())

    def maps(self) -> Iterator[Reading]:
        """Yield how full the maps are, the connection table among them."""
        labelled = [(_labels(each.name), each) for each in (*self._books(), *self._tables())]
        if labelled:
            yield Reading(ENTRIES, {labels: each.used for labels, each in labelled})
            yield Reading(MOST_ENTRIES, {labels: each.max for labels, each in labelled})

    def _read_tables(self) -> Iterator[MapStatus]:
        """Yield how full those are that the programs alone write."""
        for pins in self.pins:
            yield from inspect.connections(pins)
        for pins in self.pins[:1]:
            yield from inspect.shared_maps(pins)


def _labels(name: str) -> Labels:
    """Return the labels of a map that status calls "IPv4 frontends", or "connected"."""
    family, _, own = name.rpartition(" ")
    return own, family


def of_agent(config: RunConfig, state: State | None) -> Iterator[Reading]:
    """Yield what the agent says of itself; None: it has not said anything yet."""
    mode, translation = config.proxy_mode, config.socket_translation.value
    yield Reading(INFO, {(pyproxy.__version__, mode, translation): 1})
    yield Reading(SYNCED, {(): bool(state and state.synced)})
    if state is None:
        return
    yield Reading(SERVICES, {(): state.services})
    yield Reading(ENDPOINTS, {(): state.endpoints})
    yield Reading(NOT_SERVED, {(): state.refused})
    yield Reading(MALFORMED, {(): state.malformed})
    problems = Counter(each.code for each in state.problems)
    yield Reading(PROBLEMS, {(code,): number for code, number in problems.items()})
