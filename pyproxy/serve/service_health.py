# SPDX-License-Identifier: Apache-2.0
"""Health-check node ports: which nodes have endpoints, for load balancers (parity A11)."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from pyproxy.model import Address, ObjectName, address_text, endpoint_text
from pyproxy.serve.connection import Reply
from pyproxy.serve.health import JSON
from pyproxy.serve.http import HttpServer, Listener, listening

WEIGHT = "X-Load-Balancing-Endpoint-Weight"
_GONE = Reply(200)  # parity A11.8


class _Served(NamedTuple):
    port: int
    sockets: tuple[socket.socket, ...]


class ServiceHealth:
    """The health-check node ports of one family; one thread calls its methods.

    `addresses` are where they are served, those of all zeros for everywhere; they never change
    (parity A11.6).
    """

    def __init__(
        self, http: HttpServer, addresses: tuple[Address, ...], is_healthy: Callable[[], bool]
    ) -> None:
        self._http = http
        self._addresses = addresses
        self._is_healthy = is_healthy
        self._served: dict[ObjectName, _Served] = {}
        # read by the server's thread; a service that is not here has gone
        self._endpoints: dict[ObjectName, int] = {}

    def sync_services(self, wanted: Mapping[ObjectName, int]) -> dict[ObjectName, str]:
        """Serve these services on these ports and no others (parity A11.7).

        Returns why some cannot be served; the next call tries those again. What is new has no
        endpoints until sync_endpoints().
        """
        gone = [name for name, each in self._served.items() if wanted.get(name) != each.port]
        closing = [sock for name in gone for sock in self._served[name].sockets]
        for name in gone:
            del self._served[name], self._endpoints[name]
        if closing:
            self._http.close(closing)
        failures: dict[ObjectName, str] = {}
        opened: list[Listener] = []
        for name in wanted.keys() - self._served.keys():
            try:
                opened += self._listen(name, wanted[name])
            except OSError as error:
                failures[name] = str(error)
        if opened:
            self._http.open(opened)
        return failures

    def sync_endpoints(self, counts: Mapping[ObjectName, int]) -> None:
        """Take over how many ready endpoints services have here; who is not named has none."""
        for name in self._served:
            self._endpoints[name] = counts.get(name, 0)

    def answer(self, name: ObjectName, _path: str) -> Reply:
        """Answer any request about a service (parity A11.1 to A11.3)."""
        endpoints = self._endpoints.get(name)
        if endpoints is None:
            return _GONE
        healthy = self._is_healthy()
        body = {
            "service": {"namespace": name.namespace, "name": name.name},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        }
        return Reply(
            200 if endpoints and healthy else 503,
            json.dumps(body, indent="\t").encode(),
            (*JSON, (WEIGHT, str(endpoints))),
        )

    def _listen(self, name: ObjectName, port: int) -> list[Listener]:
        """Return listeners on all addresses, or none: raises OSError with the address in it."""
        if not self._addresses:
            raise OSError("no address of this node is in nodePortAddresses")
        with contextlib.ExitStack() as made:
            sockets = []
            for address in self._addresses:
                sockets.append(_listening(address, port))
                made.callback(sockets[-1].close)
            made.pop_all()
        self._served[name] = _Served(port, tuple(sockets))
        self._endpoints[name] = 0
        answer = partial(self.answer, name)
        return [Listener(sock, answer) for sock in sockets]


def _listening(address: Address, port: int) -> socket.socket:
    try:
        return listening(address_text(address), port)
    except OSError as error:
        raise OSError(f"{endpoint_text(address, port)}: {error.strerror}") from error
