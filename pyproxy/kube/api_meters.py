# SPDX-License-Identifier: Apache-2.0
"""What is counted of requests to the API server: client-go's metrics, and watches.

Names, labels and buckets of client-go: k8s.io/component-base/metrics/prometheus/restclient
(parity A20.12).
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from pyproxy.meters import Histogram, Meter, Reading, Spec, Type

REQUESTS = Spec(
    "rest_client_requests_total",
    Type.COUNTER,
    "Requests to the API server by status, method and host; code <error>: there was no answer.",
    ("code", "method", "host"),
)
DURATIONS = Spec(
    "rest_client_request_duration_seconds",
    Type.HISTOGRAM,
    "How long requests to the API server took, with their bodies; without watches.",
    ("verb", "host"),
    (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
)
LISTS = Spec(
    "pyproxy_api_lists_total",
    Type.COUNTER,
    "Lists that were read from the API server, whole ones alone.",
    ("resource",),
)
RESTARTS = Spec(
    "pyproxy_watch_restarts_total",
    Type.COUNTER,
    "Watches that ended, or could not begin, and why: they are begun anew. ended: by the server, "
    "as it does every few minutes; all others are troubles.",
    ("resource", "cause"),
)

NO_ANSWER = "<error>"
ENDED, CUT = "ended", "cut"


class ApiMeters:
    """Counts for all threads that ask the API server."""

    def __init__(self) -> None:
        self._requests = Meter(REQUESTS)
        self._durations = Histogram(DURATIONS)
        self._lists = Meter(LISTS)
        self._restarts = Meter(RESTARTS)

    def asked(self, method: str, server: str, status: int | None) -> None:
        """Count a request; `server` is a URL, None for no answer."""
        code = NO_ANSWER if status is None else str(status)
        self._requests.add(code, method, urlsplit(server).netloc)

    def took(self, method: str, server: str, seconds: float) -> None:
        """Count how long a request took."""
        self._durations.observe(seconds, method, urlsplit(server).netloc)

    def listed(self, resource: str) -> None:
        """Count a whole list of a resource (its plural)."""
        self._lists.add(resource)

    def restarted(self, resource: str, cause: str) -> None:
        """Count a watch that has ended, by a client.Cause's value, ENDED or CUT."""
        self._restarts.add(resource, cause)

    def read(self) -> Iterator[Reading]:
        """Yield everything as it is now."""
        yield self._requests.read()
        yield self._durations.read()
        yield self._lists.read()
        yield self._restarts.read()
