# SPDX-License-Identifier: Apache-2.0
"""New TCP connections at a steady rate, one after the other. Run as a module in a host.

    python3 -S -m tests.soak.asking '{"rate": 200, "targets": [...]}'

The targets (as probe.py has them) are asked by turns, until stdin ends; every other round of them
ends by FIN, the others by a reset. Once a second, and at the end, it prints one line of JSON: how
many connections there were, who answered how often, and the failures since the last line, each as
{error, step, began, at} with CLOCK_MONOTONIC's seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

from tests.lab.probe import Fields, converse

REPORT_S = 1.0
# A host that was held up for a moment makes up for it, but for no more than this.
ARREARS_S = 2.0


class Asker:
    """The counts so far, and the failures that were not yet reported."""

    def __init__(self, rate: float, targets: list[Fields]) -> None:
        self._interval_s = 1 / rate
        self._targets = [to | {"fin": fin} for fin in (False, True) for to in targets]
        self._connections = 0
        self._who: Counter[str] = Counter()
        self._failures: list[Fields] = []

    def run(self, stopping: threading.Event) -> None:
        """Ask until it is told to stop."""
        due = reported = time.monotonic()
        while not stopping.is_set():
            self._ask()
            now = time.monotonic()
            if now - reported >= REPORT_S:
                self._report()
                reported = now
            due = max(due + self._interval_s, now - ARREARS_S)
            if due > now:
                stopping.wait(due - now)
        self._report()

    def _ask(self) -> None:
        began = time.monotonic()
        said = converse(self._targets[self._connections % len(self._targets)])
        self._connections += 1
        if said["error"]:
            failure = {"error": said["error"], "step": said["step"]}
            self._failures.append(failure | {"began": began, "at": said["at"]})
        else:
            self._who[said["who"]] += 1

    def _report(self) -> None:
        line = {"connections": self._connections, "who": self._who, "failures": self._failures}
        print(json.dumps(line), flush=True)
        self._failures = []


def until_stdin_ends() -> threading.Event:
    """Return what is set when stdin ends."""
    stopping = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait, daemon=True).start()
    return stopping


def main() -> None:
    """Read the argument and ask."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    Asker(wanted["rate"], wanted["targets"]).run(until_stdin_ends())


if __name__ == "__main__":
    main()
