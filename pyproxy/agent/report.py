# SPDX-License-Identifier: Apache-2.0
"""What the agent leaves in its run-dir for `pyproxy status`: state.json, replaced whole."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.agent.problems import Problem

log = logging.getLogger(__name__)

STATE = "state.json"


class State(NamedTuple):
    """The agent's word on itself. Times are seconds since the epoch, 0.0 for never.

    `pod_networks` are the cluster's CIDRs as text, none where they are not known.
    """

    pid: int
    version: str
    node: str
    cgroup_root: str
    devices: list[str]
    synced: bool
    last_sync: float
    last_sync_seconds: float
    services: int
    endpoints: int
    refused: int
    malformed: int
    problems: list[Problem]
    pod_networks: Sequence[str] = ()


class Reporter:
    """Keeps the state in a run-dir up to date; one that cannot be written costs only the report."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._failed = ""

    def write(self, state: State) -> bool:
        """Replace the state in one rename; return whether that could be done.

        Where it cannot the old one is removed: `status` is to say that nothing is known of the
        agent, not what it was an hour ago.
        """
        raw = state._asdict() | {"problems": [p._asdict() for p in state.problems]}
        new = self._run_dir / f"{STATE}.new"
        try:
            new.write_text(json.dumps(raw), encoding="utf-8")
            new.replace(self._run_dir / STATE)
        except OSError as error:
            self._complain(f"{self._run_dir} cannot be written: {error.strerror}")
            with contextlib.suppress(OSError):
                remove(self._run_dir)
            return False
        self._failed = ""
        return True

    def _complain(self, text: str) -> None:
        if text != self._failed:
            log.error("%s; the node is served, but 'pyproxy status' does not know the agent", text)
        self._failed = text


def read(run_dir: Path) -> State | None:
    """Return what the last agent left, None if there is nothing readable."""
    try:
        raw: dict[str, Any] = json.loads((run_dir / STATE).read_text(encoding="utf-8"))
        raw["problems"] = [Problem(**each) for each in raw["problems"]]
        return State(**raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove(run_dir: Path) -> None:
    """Forget the state."""
    for name in (STATE, f"{STATE}.new"):
        (run_dir / name).unlink(missing_ok=True)
