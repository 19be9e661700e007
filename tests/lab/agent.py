# SPDX-License-Identifier: Apache-2.0
"""A real agent on a node of the cluster, as a process of its own."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.agent import report
from tests.lab import netns
from tests.lab.compiled import programs_dir
from tests.lab.hosts import Node
from tests.lab.waiting import wait_for

PYPROXY = Path(__file__).parents[2] / ".venv/bin/pyproxy"
"""The program under test."""

START_TIMEOUT_S = 100.0
HEALTHZ = ("127.0.0.1", 10256)


class Reply(NamedTuple):
    """What a command of pyproxy said; `json` is its stdout where that is one object."""

    status: int
    json: dict[str, Any]
    stdout: str
    stderr: str


FAST_PATH = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\nfastPath: true\n"


class Agent:
    """`pyproxy run` in a node's network namespace, with roots that are this node's alone.

    `directory` is the cluster's; the agent reads `directory/manifests` (or what `source` says)
    and writes its log to `directory/logs`. `bpffs` is where it pins.
    """

    def __init__(
        self, node: Node, directory: Path, bpffs: Path, options: Sequence[str] = ()
    ) -> None:
        self.node = node
        self.manifests = directory / "manifests"
        self.log = directory / "logs" / f"{node.name}.log"
        self.bpffs = bpffs
        self.run_dir = directory / f"run-{node.name}"
        self.cache_dir = programs_dir() or directory / "cache"
        self.options = tuple(options)
        self.program: tuple[str, ...] = (str(PYPROXY),)
        self.source = f"--manifests={self.manifests}"
        self.process: subprocess.Popen[Any] | None = None

    @property
    def roots(self) -> list[str]:
        """The options that make this node's agent another one than its neighbour's."""
        return [
            f"--cgroup-root={self.node.root}",
            f"--bpffs-root={self.bpffs}",
            f"--run-dir={self.run_dir}",
        ]

    @property
    def command(self) -> list[str]:
        """The command line of `pyproxy run`."""
        own = [self.source, f"--hostname-override={self.node.name}"]
        kept = f"--cache-dir={self.cache_dir}"
        return [*self.program, "run", *own, *self.roots, kept, *self.options]

    def use_fast_path(self) -> None:
        """Have it run with the fast path from its next start on."""
        given = self.run_dir.with_name(f"{self.run_dir.name}-fast.yaml")
        given.write_text(FAST_PATH, encoding="utf-8")
        self.options = (*self.options, f"--pyproxy-config={given}")

    @property
    def pid(self) -> int:
        """The process id of the running agent."""
        assert self.process is not None
        return self.process.pid

    def start(self, *wrapper: str) -> float:
        """Start it (under `wrapper`, say strace) and return the seconds until it is synced."""
        started = time.monotonic()
        self.launch(*wrapper)
        self.await_synced()
        return time.monotonic() - started

    def await_synced(self) -> None:
        """Wait until it is; raise RuntimeError with the end of the log when that is in vain.

        /healthz alone does not say so: who waits for the first lists is healthy.
        """
        try:
            wait_for(self._synced_or_ended, START_TIMEOUT_S, "the agent to be healthy and synced")
        except TimeoutError as error:
            raise RuntimeError(f"the agent of {self.node.name}: {error}{self.tail()}") from error
        if self._ended():
            raise RuntimeError(f"the agent of {self.node.name} has ended{self.tail()}")

    def launch(self, *wrapper: str) -> None:
        """Start it and return at once."""
        with self.log.open("ab") as log:
            self.process = self.node.popen(
                *wrapper, *self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def healthz(self) -> int:
        """Return /healthz's status as seen on the node, 0 where nothing listens."""
        return netns.inside(self.node.netns, _get_healthz)

    def stop(self, timeout_s: float = 10.0) -> float:
        """SIGTERM; return the seconds until it has ended."""
        assert self.process is not None
        started = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            message = f"the agent of {self.node.name} did not end within {timeout_s} s"
            raise RuntimeError(message + self.tail()) from error
        return time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> float:
        """Stop it if it runs, start it; return the seconds until it is synced."""
        if self.running:
            self.stop()
        return self.start()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def cli(self, command: str, *arguments: str) -> Reply:
        """Run `pyproxy COMMAND` for this node and return what it said."""
        # what other nodes' agents have kept is not this one's to forget
        own = [f"--cache-dir={self.run_dir}-cache"] if command == "cleanup" else []
        return reply_of(self.node.run(PYPROXY, command, *self.roots, *own, *arguments))

    def status(self) -> dict[str, Any]:
        """Return the object of `pyproxy status -o json`."""
        return self._json("status")

    def services(self) -> list[dict[str, Any]]:
        """Return the services in the maps (`pyproxy services -o json`)."""
        services: list[dict[str, Any]] = self._json("services")["services"]
        return services

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log under a heading."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"\n--- end of {self.log.name}\n" + "\n".join(text.splitlines()[-lines:])

    def _json(self, command: str) -> dict[str, Any]:
        reply = self.cli(command, "-o", "json")
        if not reply.json:
            raise RuntimeError(f"pyproxy {command} -o json said: {reply.stdout}{reply.stderr}")
        return reply.json

    def _ended(self) -> bool:
        return not self.running

    def _synced_or_ended(self) -> bool:
        return self._ended() or (self.healthz() == 200 and self._is_synced())

    def _is_synced(self) -> bool:
        state = report.read(self.run_dir)
        return state is not None and state.synced


def _get_healthz() -> int:
    connection = http.client.HTTPConnection(*HEALTHZ, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def reply_of(done: subprocess.CompletedProcess[str]) -> Reply:
    """Return what a command that has ended said."""
    return Reply(done.returncode, _object(done.stdout), done.stdout, done.stderr)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
