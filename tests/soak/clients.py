# SPDX-License-Identifier: Apache-2.0
"""The processes that make the traffic, and what they have reported last."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

from tests.lab.hosts import Host
from tests.soak.paths import Path, kept, targets

ROOT = File(__file__).parents[2]
# a kept socket may be waiting for an answer; see ANSWER_S of holding.py
END_S = 10.0


class Client:
    """A module of this folder that runs in a host and prints lines of JSON until stdin ends."""

    def __init__(self, host: Host, module: str, argument: object) -> None:
        self.name = f"{module} in {host.name}"
        self.lines: list[dict[str, Any]] = []
        # -S: what it imports is of the standard library, and it starts sooner
        self._process = host.popen(
            sys.executable, "-S", "-m", f"tests.soak.{module}", json.dumps(argument),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def end(self) -> None:
        """Let it end by itself; raises RuntimeError where it does not, or had ended before."""
        ended_before = not self.running
        assert self._process.stdin
        self._process.stdin.close()
        self._thread.join(END_S)
        if ended_before or self._thread.is_alive() or self._process.wait(END_S):
            raise RuntimeError(f"{self.name} has ended early, or not at all (see stderr)")

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append(json.loads(line))


class Traffic:
    """All clients of a soak."""

    def __init__(self, paths: Iterable[Path], rate: float) -> None:
        self._asking = {
            path: Client(path.client, "asking", {"rate": rate, "targets": targets(path)})
            for path in paths
        }
        by_host: dict[Host, list[dict[str, object]]] = {}
        for path in self._asking:
            if path.asserted:
                by_host.setdefault(path.client, []).extend(kept(path))
        self._holding = [Client(host, "holding", entries) for host, entries in by_host.items()]

    @property
    def clients(self) -> list[Client]:
        """All of them."""
        return [*self._asking.values(), *self._holding]

    def connections(self, path: Path) -> int:
        """Return how many connections a path had so far."""
        return max((line["connections"] for line in self._asking[path].lines), default=0)

    def answered(self, path: Path) -> Counter[str]:
        """Return how often each server has answered."""
        lines = self._asking[path].lines
        return Counter(lines[-1]["who"] if lines else {})

    def failures(self, path: Path) -> list[dict[str, Any]]:
        """Return the failed connections of a path, as asking.py tells them."""
        return [failure for line in self._asking[path].lines for failure in line["failures"]]

    def held(self) -> dict[str, dict[str, Any]]:
        """Return what holding.py tells of all paths."""
        found: dict[str, dict[str, Any]] = {}
        for client in self._holding:
            found.update(client.lines[-1] if client.lines else {})
        return found


@contextmanager
def traffic(paths: Iterable[Path], rate: float) -> Iterator[Traffic]:
    """Give the traffic, which ends with the context."""
    made = Traffic(paths, rate)
    yield made
    for client in made.clients:
        client.end()
