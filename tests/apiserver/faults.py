# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on demand, and what a client then gets to read."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.apiserver.watching import Line

GARBAGE = b"\x00\xff}{ this is no JSON <html>\n"
KINDS = {
    "stall": "the request is read and never answered; a watch may get its headers first",
    "answer": "another status, with Retry-After if wanted",
    "cut": "the connection ends in the middle of a chunk, or cleanly in the middle of a line",
    "lie": "wrong contents in a right answer",
    "slow": "the answer drips",
}
LIES = ("garbage", "half", "kind", "duplicate", "stale", "empty")
CUTS = ("chunk", "line")
VERBS = ("*", "list", "watch", "get", "create")
# For a watch these befall its request; the others befall single lines, of live watches too.
OF_REQUESTS = frozenset({"stall", "answer"})
OF_LINES = frozenset({"cut", "lie", "slow"})


class Fault(NamedTuple):
    """A fault that befalls requests for `resource` (plural; * for all) by `verb`.

    `times`: how many requests (for cut, lie and slow on watches: lines) it befalls, None for all
    until cleared. `status`, `retry_after` (s): of answer. `at`: chunk or line, of cut. `how`: one
    of LIES. `headers`: a stalled watch gets its headers. `size` (bytes), `pause_s`: of slow.
    """

    kind: str
    resource: str = "*"
    verb: str = "*"
    times: int | None = 1
    status: int = 500
    retry_after: int | None = None
    at: str = "chunk"
    how: str = "garbage"
    headers: bool = False
    size: int = 16
    pause_s: float = 0.001

    def check(self) -> None:
        """Raise ValueError, which says what is possible, for a fault that can't be made."""
        for name, value, possible in (
            ("kind of fault", self.kind, tuple(KINDS)),
            ("verb", self.verb, VERBS),
            ("place to cut", self.at, CUTS),
            ("lie", self.how, LIES),
        ):
            if value not in possible:
                raise ValueError(f"there is no {name} {value!r}: give one of {', '.join(possible)}")

    def befalls(self, resource: str, verb: str) -> bool:
        """Say whether a request is meant."""
        return self.resource in {"*", resource} and self.verb in {"*", verb}


class FaultTable:
    """The faults to come, oldest first; each request or line takes one at most."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Add a fault; raises ValueError where it makes no sense."""
        fault.check()
        self._faults.append(fault)

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()

    def take(self, resource: str, verb: str, kinds: frozenset[str]) -> Fault | None:
        """Return the first fault that befalls this and count it, or None."""
        for index, fault in enumerate(self._faults):
            if fault.kind in kinds and fault.times != 0 and fault.befalls(resource, verb):
                if fault.times is not None:
                    self._faults[index] = fault._replace(times=fault.times - 1)
                return fault
        return None


def lie_in_body(body: bytes, how: str) -> bytes:
    """Return an answer's body that is not true: see LIES."""
    if how == "garbage":
        return GARBAGE
    if how == "empty":
        return b""
    if how == "half":
        return body[: len(body) // 2]
    if how == "kind":
        return re.sub(rb'"kind":\s?"\w+"', b'"kind":"PodList"', body, count=1)
    if how == "duplicate":
        return _with_first_item_twice(body)
    return re.sub(rb'"resourceVersion":\s?"\d+"', b'"resourceVersion":"1"', body)


def lie_in_line(line: Line, how: str) -> list[bytes]:
    """Return what stands in for a line of a watch: see LIES."""
    if how == "garbage":
        return [GARBAGE]
    if how == "empty":
        return [b"\n"]
    if how == "half":
        return [line.text[: len(line.text) // 2] + b"\n"]
    if how == "kind":
        object_kind = rb'("object":\{"kind":)"\w+"'
        return [re.sub(object_kind, rb'\1"Pod"', line.text, count=1)]
    return [line.text, line.text if how == "duplicate" else line.older]


def _with_first_item_twice(body: bytes) -> bytes:
    """Repeat the first object of a compact list; items are parted by what opens each."""
    opening, separator = b'"items":[', b',{"metadata":{'
    start = body.find(opening) + len(opening)
    end = body.find(separator, start)
    item = body[start : end if end > 0 else body.rfind(b"]}")]
    return body[:start] + item + (b"," if item else b"") + body[start:]
