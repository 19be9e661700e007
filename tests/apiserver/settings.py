# SPDX-License-Identifier: Apache-2.0
"""How a server of the tests is to be."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.apiserver.answers import Json


class Settings(NamedTuple):
    """What is fixed while a server lives.

    `host` and `port` (0: a free one) are listened on; `names` are further names of the certificate.
    `tls` False speaks plain HTTP. `second_s` is how long a second of the protocol lasts
    (timeoutSeconds, the bookmarks' interval, the wait of a list of the future): 0.05 makes a watch
    of five minutes end after fifteen seconds. `bookmark_interval` and `watch_seconds` (where
    timeoutSeconds is unset) are such seconds; so is `future_list_wait`: the API server waits 3.
    """

    host: str = "127.0.0.1"
    port: int = 0
    names: tuple[str, ...] = ("localhost",)
    tls: bool = True
    second_s: float = 1.0
    bookmark_interval: float = 60.0
    watch_seconds: float = 1800.0
    future_list_wait: float = 3.0


class Seen(NamedTuple):
    """A request that the server has read; `status` is 0 while it is unanswered.

    `verb` and `resource` (plural) are as the authorizer sees them, `user` is empty until known.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int
    user: str
    verb: str
    resource: str


def seen_from(value: Json) -> Seen:
    """Return a Seen from its JSON; raises TypeError."""
    fields: dict[str, Any] = dict(value)
    return Seen(**fields)
