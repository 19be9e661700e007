# SPDX-License-Identifier: Apache-2.0
"""An agent that runs in the image's root file system, as in its pod: PID 1, nothing writable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.image.built import Image
from tests.lab.agent import Agent, Reply, reply_of
from tests.lab.cluster import Cluster
from tests.lab.hosts import Node

ENTER = Path(__file__).with_name("enter.sh")
# what the node mounts is seen: an agent refuses pins that would end with its container
_MOUNTS = ("unshare", "--mount", "--propagation", "slave")
_PIDS = ("--pid", "--fork", "--kill-child")


class ImageAgent(Agent):
    """`pyproxy run` of the image on a node of the lab; it compiles what it loads."""

    def __init__(
        self, image: Image, cluster: Cluster, node: Node, options: Sequence[str] = ()
    ) -> None:
        super().__init__(node, cluster.directory, cluster.bpffs / node.name, options)
        self.cache_dir = cluster.directory / "cache"
        settings = ("env", "-i", *image.environment)
        self._inside = ("sh", str(ENTER), str(image.root), str(cluster.directory), *settings)
        self.program = (*_MOUNTS, *_PIDS, *self._inside, *image.entrypoint)
        self._entrypoint = image.entrypoint

    @property
    def own_pid(self) -> int:
        """The process id of the agent itself, which is 1 where it lives."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return int(children)

    def stop(self, timeout_s: float = 10.0) -> float:
        """SIGTERM to the agent; return the seconds until it has ended."""
        assert self.process is not None
        started = time.monotonic()
        os.kill(self.own_pid, signal.SIGTERM)
        self.process.wait(timeout_s)
        return time.monotonic() - started

    def inside(self, *command: str) -> Reply:
        """Run a command in the image on this node and return what it said."""
        return reply_of(self.node.run(*_MOUNTS, *self._inside, *command))

    def cli(self, command: str, *arguments: str) -> Reply:
        """Run `pyproxy COMMAND` in the image for this node and return what it said."""
        own = [f"--cache-dir={self.cache_dir}"] if command == "cleanup" else []
        return self.inside(*self._entrypoint, command, *self.roots, *own, *arguments)
