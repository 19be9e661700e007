# SPDX-License-Identifier: Apache-2.0
"""What the agent's one thread is told, and since when it has not listened."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from pyproxy.agent.reconfigure import Reread
from pyproxy.kernel.lock import Lock
from pyproxy.kube.events import Change, Event, Synced


class CoverChanged(NamedTuple):
    """Some device cannot be covered, or can be again."""


class ServersChanged(NamedTuple):
    """A server of ours cannot listen, or can again."""


class Stop(NamedTuple):
    """The agent is to end; `reason` is what went wrong, "" if nothing did."""

    reason: str = ""
    remedy: str = "start it again, and report what the log says"


class MyTurn(NamedTuple):
    """No other agent waits before this one; with a lock, none runs any more."""

    lock: Lock | None


class Prepared(NamedTuple):
    """Programs were loaded before their time; `failure` says why not, "" if they were."""

    failure: str


Message: TypeAlias = Event | CoverChanged | ServersChanged | Reread | MyTurn | Prepared | Stop


class Messages:
    """The queue. Objects that wait in it are changes that nobody applies: `queued_at` says since
    when by `clock`, None where there are none.

    `taken_at` is what it was when wait() took them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # so that the mark and what is in the queue belong together
        self._lock = threading.Lock()
        self.queued_at: float | None = None
        self.taken_at: float | None = None

    def put(self, message: Message) -> None:
        """Add a message; from any thread."""
        with self._lock:
            if self.queued_at is None and isinstance(message, Change | Synced):
                self.queued_at = self._clock()
            self._queue.put(message)

    def wait(self, timeout: float | None) -> list[Message]:
        """Return all there is, after a wait for the first one: none after so many seconds."""
        self.taken_at = None
        try:
            messages = [self._queue.get(timeout=timeout)]
        except queue.Empty:
            return []
        with self._lock:
            while not self._queue.empty():
                messages.append(self._queue.get())
            self.taken_at, self.queued_at = self.queued_at, None
        return messages
