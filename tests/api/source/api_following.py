# SPDX-License-Identifier: Apache-2.0
"""An ApiSource under test, and what its events have led to."""

from __future__ import annotations

import gc
import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pyproxy.kube.api import SYSTEM_CLOCKS, ApiSource
from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.api_pace import Pace
from pyproxy.kube.events import Change, Event, Kind, NodeListed, Record, Report, Synced, Trouble
from pyproxy.model import Service
from tests.api.source.scripted import Json

BOUND_S = 5.0
NODE = "n1"
# Everything in hundredths of a second, so that tests of what takes minutes take none.
FAST = Pace(
    connect_s=0.5,
    answer_s=0.2,
    silence_s=0.2,
    settled_s=0.03,
    backoff_least_s=0.01,
    backoff_most_s=0.04,
    retry_after_most_s=0.2,
    absent_least_s=0.02,
    absent_most_s=0.1,
)


class Followed:
    """A source, the events it put, and the state that they lead to."""

    def __init__(
        self,
        settings: ApiSettings,
        pace: Pace = FAST,
        node: str = NODE,
        *,
        service_cidrs: bool = False,
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.meters = ApiMeters()
        self.source = ApiSource(
            settings,
            node,
            self.events.put,
            service_cidrs=service_cidrs,
            pace=pace,
            clocks=SYSTEM_CLOCKS,
            meters=self.meters,
        )
        self.seen: list[Event] = []
        self.objects: dict[tuple[Kind, str], Record] = {}
        self.reports: dict[str, str] = {}
        self.troubles: dict[str, Trouble] = {}
        self.synced = 0
        self.node_listed = 0

    def take(self, event: Event) -> None:
        """Take one event."""
        self.seen.append(event)
        if isinstance(event, Synced):
            self.synced += 1
        elif isinstance(event, NodeListed):
            self.node_listed += 1
        elif isinstance(event, Report):
            self.reports[event.source] = event.message
        elif isinstance(event, Trouble):
            self.troubles[event.source] = event
        elif event.object is None:
            del self.objects[event.kind, event.name.name]
        else:
            self.objects[event.kind, event.name.name] = event.object

    def until(self, condition: Callable[[], bool]) -> None:
        """Take events until the condition holds; fails after a bounded wait."""
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"in vain; troubles: {self.troubles}"
            try:
                self.take(self.events.get(timeout=0.005))
            except queue.Empty:
                continue

    def until_synced(self) -> None:
        """Wait for Synced."""
        self.until(lambda: bool(self.synced))

    def until_trouble(self, source: str, *parts: str) -> Trouble:
        """Wait for a trouble in force whose message has these parts; return it."""

        def is_in_force() -> bool:
            message = self.message(source)
            return bool(message) and all(part in message for part in parts)

        self.until(is_in_force)
        return self.troubles[source]

    def until_calm(self) -> None:
        """Wait until no trouble is in force any more."""
        self.until(lambda: not any(one.message for one in self.troubles.values()))

    def message(self, source: str) -> str:
        """Return the message of the trouble in force, "" for none."""
        return self.troubles[source].message if source in self.troubles else ""

    def names(self, kind: Kind = Kind.SERVICE) -> set[str]:
        """Return the names of the objects that count."""
        return {name for one, name in self.objects if one is kind}

    def ip(self, name: str) -> int:
        """Return the last byte of a Service's clusterIP, -1 where it is not known."""
        found = self.objects.get((Kind.SERVICE, name))
        return found.cluster_ips[0][-1] if isinstance(found, Service) else -1

    def deletions(self) -> list[str]:
        """Return the names of the objects that went, in the order of their going."""
        return [e.name.name for e in self.seen if isinstance(e, Change) and e.object is None]


def kubeconfig(path: Path, server: str, user: Json | None = None, **cluster: object) -> Path:
    """Write a kubeconfig of one cluster and one user; return its path."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(config))
    return beside.rename(path)


@contextmanager
def following(
    settings: ApiSettings, pace: Pace = FAST, node: str = NODE, *, service_cidrs: bool = False
) -> Iterator[Followed]:
    """Start a source and stop it afterwards."""
    one = Followed(settings, pace, node, service_cidrs=service_cidrs)
    one.source.start()
    try:
        yield one
    finally:
        one.source.stop()


@contextmanager
def without_garbage() -> Iterator[None]:
    """Fail if a block leaves exceptions or frames that only the garbage collector finds."""
    gc.collect()
    gc.disable()
    try:
        yield
        # The server, in the same process, may leave some of its own.
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [one for one in gc.garbage if isinstance(one, BaseException | FrameType)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
