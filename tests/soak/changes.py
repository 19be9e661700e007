# SPDX-License-Identifier: Apache-2.0
"""What changes during a soak: endpoints that come and go, and one that dies again and again."""

from __future__ import annotations

import random
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab import manifests
from tests.lab.hosts import await_ready
from tests.soak.services import GONE, MORTAL_PORT, NEXT, Mortal, Service

CHANGES_A_SECOND = 10
LIFE_S = 1.5
AFTERMATH_S = 0.75
"""So long after an endpoint has died new connections may be drawn onto it."""


class Changes:
    """Writes the manifests of the services; each change is one of every service."""

    def __init__(self, directory: Path, services: Sequence[Service], seed: int) -> None:
        self._directory = directory
        self._services = services
        self._random = random.Random(seed)
        self.count = 0
        manifests.write(directory, "services.json", *(each.service() for each in services))
        self.rest()

    @property
    def names(self) -> set[str]:
        """The services that each change changes."""
        return {each.name for each in self._services}

    def rest(self) -> None:
        """Let all endpoints be ready."""
        self._states = [["ready"] * len(each.changing) for each in self._services]
        self._write()

    def step(self) -> None:
        """Let one of each service's changing endpoints come, end or go."""
        for states in self._states:
            number = self._random.randrange(len(states))
            states[number] = self._random.choice(NEXT[states[number]])
        self._write()
        self.count += 1

    def _write(self) -> None:
        both = zip(self._services, self._states, strict=True)
        slices = [each for service, states in both for each in service.slices(states)]
        manifests.write(self._directory, "endpoints.json", *slices)


class Lives:
    """The endpoint that dies: there for LIFE_S, and then not for as long."""

    def __init__(self, directory: Path, mortal: Mortal) -> None:
        self._directory = directory
        self._mortal = mortal
        self._starting: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._changed = time.monotonic()
        self.deaths: list[float] = []
        manifests.write(directory, "mortal.json", mortal.service())
        self._write(GONE)

    def step(self) -> None:
        """Let it live or die if it is time to; waits for nothing."""
        if self._starting:
            self._live()
        elif time.monotonic() - self._changed >= LIFE_S:
            if self._server:
                self.die()
            else:
                (pod,) = self._mortal.changing
                self._starting = pod.respond([MORTAL_PORT])

    def die(self) -> None:
        """Leave the slices, and die at the same time; safe to repeat."""
        if self._server:
            self.deaths.append(time.monotonic())
            self._write(GONE)
            self._server.kill()
            self._server.wait(10)
            self._server = None
            self._changed = time.monotonic()

    def _live(self) -> None:
        """Be an endpoint once the server listens."""
        assert self._starting
        assert self._starting.stdout
        if not select.select([self._starting.stdout], [], [], 0)[0]:
            return
        await_ready(self._starting, self._mortal.name)
        self._starting.stdout.close()
        self._server, self._starting = self._starting, None
        self._write("ready")
        self._changed = time.monotonic()

    def _write(self, state: str) -> None:
        manifests.write(self._directory, "mortal-endpoints.json", *self._mortal.slices([state]))

    def excuses(self, began: float, at: float) -> bool:
        """Return whether a failed connection may have been to the endpoint that died."""
        return any(died <= at and began <= died + AFTERMATH_S for died in self.deaths)
