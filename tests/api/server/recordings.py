# SPDX-License-Identifier: Apache-2.0
"""Reads the recorded answers of a real API server (tests/apiserver/recorded)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "apiserver/recorded"
# 10 names no request: any will do, with a wrong token.
NO_REQUEST = "/api/v1/services"


class Recording(NamedTuple):
    """A request as curl was given it, and the answer to it."""

    path: str
    query: dict[str, str]
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body of an answer that isn't a watch's."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[bytes]:
        """The lines of a watch."""
        return self.body.splitlines(keepends=True)

    @property
    def objects(self) -> list[Any]:
        """The objects of a list, with kind and apiVersion."""
        kind = {"kind": self.json["kind"].removesuffix("List")}
        return [
            {**kind, "apiVersion": self.json["apiVersion"], **one} for one in self.json["items"]
        ]

    def event(self, index: int) -> Any:
        """The object of a watch's event."""
        return json.loads(self.lines[index])["object"]


def recording(number: int) -> Recording:
    """Return the recording with a number."""
    (file,) = FOLDER.glob(f"{number:02}-*.http")
    head, _, body = file.read_bytes().partition(b"\r\n\r\n")
    lines = head.decode().replace("\r", "").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    status, *headers = [line for line in lines if not line.startswith("#")]
    asked = [line.removeprefix("# request:") for line in comments if line.startswith("# request:")]
    path, query = _parse_curl(asked[0] if asked else NO_REQUEST)
    pairs = [header.partition(": ") for header in headers]
    return Recording(
        path, query, int(status.split()[1]), {name: value for name, _, value in pairs}, body
    )


def _parse_curl(text: str) -> tuple[str, dict[str, str]]:
    words = shlex.split(text)
    path = next(word for word in words if word.startswith("/"))
    data = [
        words[index + 1]
        for index, word in enumerate(words)
        if word in {"--data", "--data-urlencode"}
    ]
    return path, {name: value for name, _, value in (one.partition("=") for one in data)}
