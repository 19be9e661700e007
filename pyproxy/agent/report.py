# SPDX-License-Identifier: Apache-2.0
"""What the agent leaves in its run-dir for `pyproxy status`: state.json, replaced whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.agent.problems import Problem

STATE = "state.json"


class State(NamedTuple):
    """The agent's word on itself. Times are seconds since the epoch, 0.0 for never."""

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


def write(run_dir: Path, state: State) -> None:
    """Replace the state in one rename; a run-dir that cannot be written costs only the report."""
    raw = state._asdict() | {"problems": [p._asdict() for p in state.problems]}
    new = run_dir / f"{STATE}.new"
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(raw), encoding="utf-8")
        new.replace(run_dir / STATE)


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
