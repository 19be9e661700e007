# SPDX-License-Identifier: Apache-2.0
"""All that the server knows, owned by one thread (its event loop's): no locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.apiserver.answers import Json
from tests.apiserver.auth import Auth
from tests.apiserver.faults import FaultTable
from tests.apiserver.history import Change, History
from tests.apiserver.resources import Resource
from tests.apiserver.settings import Seen, Settings
from tests.apiserver.watching import Watch


class State:
    """The objects with their history, the live watches, credentials, faults, and what was asked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.history = History()
        self.auth = Auth()
        self.faults = FaultTable()
        self.watches: dict[Watch, Callable[[], None]] = {}
        self.seen: list[Seen] = []
        self.events: list[Json] = []
        # Plurals of resources that this server does not have.
        self.withdrawn: set[str] = set()
        # Whether watches that start before the compaction get 410 as a status instead of an event.
        self.gone_as_status = False
        self._waiting: list[asyncio.Future[None]] = []

    def changed(self, resource: Resource, change: Change | None) -> None:
        """Tell the watches of a resource, and wake requests that wait for a revision."""
        if change is not None:
            for watch in self.watches:
                if watch.terms.resource == resource:
                    watch.offer(change)
        self.moved()

    def moved(self) -> None:
        """Wake requests that wait for a revision."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def reaches(self, revision: int, timeout_s: float) -> bool:
        """Wait until the history is at a revision; return whether it is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.history.revision < revision and (left := deadline - loop.time()) > 0:
            future = loop.create_future()
            self._waiting.append(future)
            await asyncio.wait([future], timeout=left)
        return self.history.revision >= revision

    def matching(self, resource: str) -> list[Watch]:
        """Return the live watches of a resource (plural; * for all)."""
        return [one for one in self.watches if resource in {"*", one.terms.resource.plural}]
