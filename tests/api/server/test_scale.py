# SPDX-License-Identifier: Apache-2.0
"""Ten thousand services and slices are served fast enough to measure a client with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.api.server.asking import SERVICES, SLICES, bearer, connect, read_reply, target
from tests.apiserver import ApiServer
from tests.builders import Json, endpoint_slice, service

COUNT = 10_000
ADDRESSES = [f"10.244.0.{index}" for index in range(10)]


def copies(one: Json) -> Iterator[Json]:
    """Yield the object under COUNT names."""
    for index in range(COUNT):
        yield {**one, "metadata": {**one["metadata"], "name": f"s{index:05}"}}


def read_pages(server: ApiServer, path: str) -> tuple[list[bytes], float]:
    """List by pages of 500; return the bodies and the seconds it took, decoding excluded."""
    connection = connect(server)
    headers, query = bearer(server.token), {"limit": "500"}
    bodies, took_s = [], 0.0
    while True:
        started = time.perf_counter()
        connection.request("GET", target(path, query), headers=headers)
        bodies.append(read_reply(connection).body)
        took_s += time.perf_counter() - started
        token = json.loads(bodies[-1])["metadata"].get("continue")
        if not token:
            connection.close()
            return bodies, took_s
        query["continue"] = token


def test_ten_thousand_of_each(plain: ApiServer) -> None:
    """20 pages each; reading all of it takes less than a second."""
    plain.put(*copies(service()))
    plain.put(*copies(endpoint_slice(addresses=ADDRESSES)))
    services, services_s = read_pages(plain, SERVICES)
    slices, slices_s = read_pages(plain, SLICES)
    assert len(services) == len(slices) == 20
    assert sum(body.count(b'"addresses":') for body in slices) == COUNT * 10
    assert services_s + slices_s < 1.0, (services_s, slices_s)
