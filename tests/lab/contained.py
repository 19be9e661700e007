# SPDX-License-Identifier: Apache-2.0
"""An agent in namespaces and with capabilities as a container of deploy/ has them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.agent import Agent
from tests.lab.hosts import Node

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("contain.sh")
APART = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "slave")


class Contained(Agent):
    """Its process is the first of a pid namespace; all but the cluster's directory is read-only.

    `process` is the one that has made the namespace, and ends with it.
    """

    def __init__(
        self,
        node: Node,
        directory: Path,
        bpffs: Path,
        options: Sequence[str] = (),
        *,
        capabilities: Sequence[str],
    ) -> None:
        super().__init__(node, directory, bpffs, options)
        self._directory = directory
        self.capabilities = tuple(capabilities)

    def launch(self, *wrapper: str) -> None:
        """Start it and return at once."""
        super().launch(*wrapper, *self.inside())

    def inside(self) -> tuple[str, ...]:
        """Return what runs a command as in the container."""
        names = ",".join(self.capabilities)
        return "unshare", *APART, str(SCRIPT), str(self._directory), str(ROOT), names

    @property
    def inner_pid(self) -> int:
        """The agent's process as this side knows it."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return int(children.split()[0])

    def stop(self, timeout_s: float = 10.0) -> float:
        """SIGTERM, as a container runtime sends it; return the seconds until it has ended."""
        assert self.process is not None
        started = time.monotonic()
        os.kill(self.inner_pid, signal.SIGTERM)
        self.process.wait(timeout_s)
        return time.monotonic() - started
