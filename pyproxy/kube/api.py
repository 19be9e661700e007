# SPDX-License-Identifier: Apache-2.0
"""`--kubeconfig FILE` or in-cluster: objects from an API server, by a thread for each kind."""

from __future__ import annotations

import random
import threading
import time

from pyproxy.kube.api_config import ApiSettings, Credentials
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.api_pace import Pace
from pyproxy.kube.api_resources import Resource, resources
from pyproxy.kube.api_troubles import Troubles
from pyproxy.kube.client import Line
from pyproxy.kube.ending import end
from pyproxy.kube.events import Event, Kind, NodeListed, Put, Synced
from pyproxy.kube.reflector import Clocks, Reflector

SYSTEM_CLOCKS = Clocks(time.time, time.monotonic, random.random)


class ApiSource:
    """A source of events (kube.events.Source) that follows an API server.

    `put` is called from the source's own threads, by one at a time. `service_cidrs`: follow
    ServiceCIDRs, too, if the server has them and lets us; Synced waits for them only then.
    """

    def __init__(
        self,
        settings: ApiSettings,
        node_name: str,
        put: Put,
        *,
        service_cidrs: bool = False,
        pace: Pace | None = None,
        clocks: Clocks = SYSTEM_CLOCKS,
        meters: ApiMeters | None = None,
    ) -> None:
        self._downstream = put
        self._pace = pace or Pace()
        self._clocks = clocks
        self._meters = meters or ApiMeters()
        self._credentials = Credentials(settings, clocks.now)
        self._troubles = Troubles(self._put, clocks.now)
        self._resources = resources(node_name, service_cidrs=service_cidrs)
        self._unlisted = {resource.kind for resource in self._resources}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lines: list[Line] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """List and follow everything, in threads of their own; raises SourceError.

        That is where no API server is named; one that is down is waited for.
        """
        self._credentials.check()
        for resource in self._resources:
            self._follow(resource)

    def stop(self) -> None:
        """End the threads, whatever they wait for, within ending.STOP_S."""
        with self._lock:
            self._stopping.set()
        end(self._threads, self._lines)

    def _follow(self, resource: Resource) -> None:
        line = Line(self._credentials, self._pace.connect_s, self._meters)
        reflector = Reflector(
            resource,
            line=line,
            put=self._put,
            listed=lambda: self._note_list(resource),
            troubles=self._troubles,
            stopping=self._stopping,
            pace=self._pace,
            clocks=self._clocks,
            meters=self._meters,
        )
        name = f"api-{resource.plural}"
        thread = threading.Thread(target=reflector.run, name=name, daemon=True)
        self._lines.append(line)
        self._threads.append(thread)
        thread.start()

    def _put(self, event: Event) -> None:
        """Pass an event on, unless stop() was called: it promises silence."""
        with self._lock:
            if not self._stopping.is_set():
                self._downstream(event)

    def _note_list(self, resource: Resource) -> None:
        """Put Synced when the last of the first lists has been delivered, or need not come."""
        with self._lock:
            if resource.kind not in self._unlisted:
                return
            self._unlisted.discard(resource.kind)
            complete = not self._unlisted
        if resource.kind is Kind.NODE:
            self._put(NodeListed())
        if complete:
            self._put(Synced())
