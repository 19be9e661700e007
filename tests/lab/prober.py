# SPDX-License-Identifier: Apache-2.0
"""A long-lived client in a pod, on a node or outside, driven over pipes (see probe.py)."""

from __future__ import annotations

import json
import select
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What came of one question; the fields are explained in probe.py."""

    who: str = ""
    seen: str = ""
    error: str = ""
    step: str = ""
    peer: str = ""
    source: str = ""
    seconds: float = 0.0
    at: float = 0.0


@dataclass(frozen=True)
class Target:
    """Where to and how: `family` 46 is an IPv6 socket that dials an IPv4-mapped address."""

    protocol: str
    address: str
    port: int
    family: int
    connected: bool = False
    timeout_s: float = 3.0
    pause_s: float = 0.0
    source_port: int = 0


def tcp(address: str, port: int, *, mapped: bool = False, timeout_s: float = 3.0) -> Target:
    """Return a TCP destination."""
    return Target("tcp", address, port, _family(address, mapped), timeout_s=timeout_s)


def udp(
    address: str,
    port: int,
    *,
    connected: bool = False,
    mapped: bool = False,
    timeout_s: float = 3.0,
) -> Target:
    """Return a UDP destination, by sendto unless `connected`."""
    return Target("udp", address, port, _family(address, mapped), connected, timeout_s)


def _family(address: str, mapped: bool) -> int:
    if mapped:
        return 46
    return 6 if ":" in address else 4


def answered(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Return how often each server answered; failures count under their errno's name."""
    return Counter(outcome.who or outcome.error for outcome in outcomes)


class Prober:
    """The near end of a probe.py process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._received = b""

    def draw(self, to: Target, count: int = 1) -> list[Outcome]:
        """Make `count` new conversations one after the other."""
        patience = 10 + count * (to.timeout_s if count < 10 else 0.05)
        return _outcomes(self._call({"op": "draw", "count": count}, to, patience))

    def once(self, to: Target) -> Outcome:
        """Make one conversation."""
        return self.draw(to)[0]

    def crowd(self, to: Target, count: int) -> list[Outcome]:
        """Make `count` connections that are all open at the same time."""
        return _outcomes(self._call({"op": "crowd", "count": count}, to, 10 + 2 * to.timeout_s))

    def open(self, name: str, to: Target) -> Outcome:
        """Make a socket that is kept under `name`, connected where `to` says so."""
        return Outcome(**self._call({"op": "open", "name": name}, to))

    def ask(self, name: str, to: Target, count: int = 1) -> list[Outcome]:
        """Ask `count` times on the socket `name`; an unconnected one sends to `to`."""
        return _outcomes(self._call({"op": "ask", "name": name, "count": count}, to, 30))

    def close(self, name: str) -> None:
        """Close the socket `name`."""
        self._call({"op": "close", "name": name})

    def start(self, name: str, to: Target) -> None:
        """Start a stream of new conversations, one after the other, under `name`."""
        self._call({"op": "start", "name": name}, to)

    def seen(self, name: str) -> tuple[int, set[str]]:
        """Return how many outcomes a stream has and who answered in its last 50."""
        reply = self._call({"op": "seen", "name": name})
        return reply["count"], set(reply["last"])

    def stop(self, name: str) -> list[Outcome]:
        """Stop a stream and return all of its outcomes."""
        return _outcomes(self._call({"op": "stop", "name": name}, None, 30))

    def _call(self, command: dict[str, Any], to: Target | None = None, patience: float = 10) -> Any:
        if to is not None:
            command["to"] = asdict(to)
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._line(patience))

    def _line(self, patience: float) -> bytes:
        assert self._process.stdout
        out = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not select.select([out], [], [], patience)[0]:
                raise TimeoutError(f"the prober in {self.name} gave no answer in {patience} s")
            part = self._process.stdout.read1(1 << 20)  # type: ignore[attr-defined]  # a BufferedReader
            if not part:
                raise RuntimeError(f"the prober in {self.name} has ended (see stderr)")
            self._received += part
        line, self._received = self._received.split(b"\n", 1)
        return line


def _outcomes(reply: list[dict[str, Any]]) -> list[Outcome]:
    return [Outcome(**fields) for fields in reply]
