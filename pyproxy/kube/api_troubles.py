# SPDX-License-Identifier: Apache-2.0
"""What is wrong between the agent and the API server, said once and with its beginning."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyproxy.kube.events import Put, Trouble

SERVER = "API server"


class Troubles:
    """The troubles in force. Several threads may have the same one: it is told once.

    `clock` returns seconds since the epoch.
    """

    def __init__(self, put: Put, clock: Callable[[], float]) -> None:
        self._put = put
        self._clock = clock
        self._lock = threading.Lock()
        self._in_force: dict[str, dict[str, Trouble]] = {}
        self._told: dict[str, Trouble] = {}

    def begin(self, source: str, teller: str, message: str, since: float = 0.0) -> None:
        """Say what `teller` finds wrong with `source`; a trouble that goes on keeps its since.

        `since` is for what began before it was noticed; 0.0 means now.
        """
        with self._lock:
            tellers = self._in_force.setdefault(source, {})
            before = tellers.get(teller)
            began = before.since if before else since or self._clock()
            tellers[teller] = Trouble(source, message, began)
            self._tell(source)

    def end(self, source: str, teller: str) -> None:
        """Say that `teller` finds nothing wrong with `source` any more."""
        with self._lock:
            if self._in_force.get(source, {}).pop(teller, None):
                self._tell(source)

    def _tell(self, source: str) -> None:
        """Put what changed: the oldest trouble of a source speaks for it."""
        told = self._told.pop(source, None)
        found = min(self._in_force[source].values(), key=_began, default=None)
        if found and told:
            # whoever noticed first may be done first: the trouble is no younger for that
            found = found._replace(since=min(told.since, found.since))
        if found:
            self._told[source] = found
        if found != told:
            self._put(found or Trouble(source, "", told.since if told else 0.0))


def _began(trouble: Trouble) -> float:
    return trouble.since
