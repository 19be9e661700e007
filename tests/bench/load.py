# SPDX-License-Identifier: Apache-2.0
"""The C load tools as processes in a pod: servers, clients and probers.

A pod starts processes by `Spawn`: argv in, a process with pipes out, which is then in the
pod's network namespace and its cgroup (the one whose programs its connections meet).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pyproxy.errors import PyproxyError

Process: TypeAlias = "subprocess.Popen[str]"
Spawn: TypeAlias = Callable[[Sequence[str]], Process]
Tools: TypeAlias = Mapping[str, Path]

START_TIMEOUT_S = 10.0


class Tool:
    """A running load tool, which is spoken to in lines."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._unread = b""

    def write_line(self, line: str) -> None:
        """Send a line; that the tool has ended is left for read_line() to explain."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), f"{line}\n".encode())
        except BrokenPipeError:
            return

    def read_line(self, timeout_s: float) -> str:
        """Return the next line that the tool prints, without its newline.

        Raises PyproxyError, with the tool's own words, when it ends or is silent for too long.
        """
        # Reads the descriptor: select() knows nothing of lines that a text pipe has buffered.
        end = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read_some(end - time.monotonic(), timeout_s)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def has_output(self) -> bool:
        """Tell whether the tool has printed something or ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def _read_some(self, left_s: float, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], max(left_s, 0))[0]:
            raise PyproxyError(f"{self._command()} said nothing for {timeout_s:g} s")
        some = os.read(self._process.stdout.fileno(), 65536)
        if some:
            return some
        words = self._process.stderr.read().strip() if self._process.stderr else ""
        raise PyproxyError(f"{self._command()} ended: {words or 'without a word'}")

    def _command(self) -> str:
        return subprocess.list2cmdline(map(str, _as_list(self._process.args)))


def _as_list(argv: object) -> Sequence[object]:
    return argv if isinstance(argv, list | tuple) else [argv]


@contextmanager
def running(spawn: Spawn, argv: Sequence[object]) -> Iterator[Tool]:
    """Run a tool for the length of a block; it is killed and reaped at the end."""
    process = spawn([str(part) for part in argv])
    try:
        yield Tool(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


class Endpoint(NamedTuple):
    """An address and port to serve on or to dial."""

    address: str
    port: int


@contextmanager
def serving(
    spawn: Spawn, tools: Tools, protocol: str, at: Endpoint, *, name: str, cpu: int
) -> Iterator[None]:
    """Have a server answer with its name on an address of the pod, for the length of a block."""
    with running(spawn, [tools["server"], protocol, *at, name, cpu]) as tool:
        if (said := tool.read_line(START_TIMEOUT_S)) != "ready":
            raise PyproxyError(f"the server {name} said {said!r} instead of ready")
        yield


@dataclass(frozen=True)
class Window:
    """What a client did in a window, in operations a second, and how long they took in ns.

    `cpu_ns` is the CPU time of both ends, where somebody looked (cputime.py).
    """

    operations: int
    rate: float
    latency_ns: Mapping[str, int]
    cpu_ns: int = 0


def parse_window(line: str) -> Window:
    """Take the line of JSON that load/client.c prints at the end of a window."""
    fields = json.loads(line)
    return Window(
        operations=fields["operations"],
        rate=fields["operations"] / fields["ns"] * 1e9,
        latency_ns=fields["latency_ns"],
    )


class Client:
    """A running load/client.c, which waits between its windows."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def window(self, length_ms: int) -> Window:
        """Run operations for a time and return what came of them; a failed one raises."""
        self._tool.write_line(str(length_ms))
        return parse_window(self._tool.read_line(length_ms / 1000 + START_TIMEOUT_S))


@contextmanager
def client(spawn: Spawn, tools: Tools, mode: str, to: Endpoint, cpu: int) -> Iterator[Client]:
    """Have a client of one mode (see load/client.c) for the length of a block."""
    with running(spawn, [tools["client"], mode, *to, cpu]) as tool:
        yield Client(tool)


class Answer(NamedTuple):
    """A prober saw another server answer: when, how long after the last other answer, which."""

    at_ns: int
    gap_ns: int
    name: str


class Prober:
    """A running load/prober.c."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    def next_answer(self, timeout_s: float) -> Answer:
        """Return the next change of who answers; "-" is the name of no answer."""
        at_ns, gap_ns, name = self._tool.read_line(timeout_s).split(maxsplit=2)
        return Answer(int(at_ns), int(gap_ns), name)


@contextmanager
def probing(spawn: Spawn, tools: Tools, to: Endpoint, pause_us: int, cpu: int) -> Iterator[Prober]:
    """Have new connections made to an endpoint all the time, for the length of a block."""
    with running(spawn, [tools["prober"], *to, pause_us, cpu]) as tool:
        yield Prober(tool)
