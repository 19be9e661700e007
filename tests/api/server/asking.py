# SPDX-License-Identifier: Apache-2.0
"""A plain client of the API server, which hides nothing of what came over the wire."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from tests.apiserver import ApiServer
from tests.apiserver.certificates import Pair

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
NODES = "/api/v1/nodes"
TIMEOUT_S = 5.0

Query = Mapping[str, str | int]


class Reply(NamedTuple):
    """A whole answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def names(self) -> list[str]:
        """The names of a list's objects."""
        return [item["metadata"]["name"] for item in self.json["items"]]

    @property
    def revision(self) -> str:
        """The resourceVersion of a list."""
        return str(self.json["metadata"]["resourceVersion"])


def connect(
    server: ApiServer, client: Pair | None = None, timeout_s: float = TIMEOUT_S
) -> http.client.HTTPConnection:
    """Return a connection that trusts the server's CA, and shows a client certificate."""
    address = urlsplit(server.url)
    authority = server.authority
    if authority is None:
        return http.client.HTTPConnection(address.netloc, timeout=timeout_s)
    context = ssl.create_default_context(cafile=str(authority))
    if client:
        context.load_cert_chain(client.certificate, client.key)
    return http.client.HTTPSConnection(address.netloc, timeout=timeout_s, context=context)


def target(path: str, query: Query | None = None) -> str:
    """Return path and query of a request."""
    return f"{path}?{urlencode(query)}" if query else path


def bearer(token: str) -> dict[str, str]:
    """Return the header of a token."""
    return {"Authorization": f"Bearer {token}"}


def get(
    server: ApiServer,
    path: str,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    client: Pair | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Reply:
    """GET once and read all; `headers` of None carry the good token."""
    connection = connect(server, client, timeout_s)
    try:
        sent = bearer(server.token) if headers is None else dict(headers)
        connection.request("GET", target(path, query), headers=sent)
        return read_reply(connection)
    finally:
        connection.close()


def read_reply(connection: http.client.HTTPConnection) -> Reply:
    """Read an answer to its end."""
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, headers, answer.read())


class WatchClient:
    """A watch: open once the headers are there; `query` beside watch=1."""

    def __init__(
        self,
        server: ApiServer,
        path: str,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.connection = connect(server, timeout_s=timeout_s)
        sent = {**bearer(server.token), **(headers or {})}
        self.connection.request("GET", target(path, {"watch": "1", **(query or {})}), headers=sent)
        self.answer = self.connection.getresponse()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.connection.close()

    def line(self) -> bytes:
        """Return the next line, empty at the end; raises TimeoutError, IncompleteRead."""
        return self.answer.readline()

    def event(self) -> Any:
        """Return the next event, decoded."""
        return json.loads(self.line())

    def brief(self) -> tuple[str, str]:
        """Return the next event as its type and its object's name."""
        event = self.event()
        return event["type"], event["object"]["metadata"].get("name", "")

    def rest(self) -> bytes:
        """Return all that comes until the end."""
        return self.answer.read()
