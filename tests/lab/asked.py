# SPDX-License-Identifier: Apache-2.0
"""HTTP requests from any host of the cluster."""

from __future__ import annotations

import http.client
from functools import partial
from typing import NamedTuple

from tests.lab import netns
from tests.lab.hosts import Host


class Got(NamedTuple):
    """An answer; `status` is 0 where nobody listens."""

    status: int
    headers: dict[str, str]
    body: str


def get(client: Host, address: str, port: int, path: str = "/") -> Got:
    """Return what `client` gets by a new connection."""
    return netns.inside(client.netns, partial(_get, address, port, path))


def _get(address: str, port: int, path: str) -> Got:
    connection = http.client.HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read().decode())
    except OSError:
        return Got(0, {}, "")
    finally:
        connection.close()
