# SPDX-License-Identifier: Apache-2.0
"""/healthz and /livez for load balancers and probes, as kube-proxy answers them (parity A12)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

from pyproxy.model import Family
from pyproxy.serve.connection import NOSNIFF, NOT_FOUND, Reply
from pyproxy.serve.http import HttpServer, Listener, listening

log = logging.getLogger(__name__)

RETRY_S = 5.0  # parity A12.7
STOP_S = 1.0
JSON = (("Content-Type", "application/json"), NOSNIFF)
HEALTHZ, LIVEZ = "/healthz", "/livez"
_NEVER = "0001-01-01T00:00:00Z"  # what Go writes for no time


class FamilyHealth(NamedTuple):
    """Whether a family is served as its objects say. `updated_ns`: the last success, 0 for none.

    Times are in nanoseconds since the epoch.
    """

    healthy: bool
    updated_ns: int


class Health(NamedTuple):
    """Both families' health, and whether load balancers may send to the node (parity A12.2)."""

    families: Mapping[Family, FamilyHealth]
    node_eligible: bool = True

    @property
    def healthy(self) -> bool:
        """Whether all families are healthy; the node's fate has no part in it."""
        return all(each.healthy for each in self.families.values())


def proxy_health(health: Health, path: str, now_ns: int) -> Reply:
    """Return what /healthz or /livez answers: the code, and the body of Kubernetes 1.36 (A12.3)."""
    eligible = health.node_eligible or path == LIVEZ
    is_good = health.healthy and eligible
    updated = max((each.updated_ns for each in health.families.values()), default=0)
    answer: dict[str, object] = {
        "lastUpdated": timestamp(now_ns if is_good else updated),
        "currentTime": timestamp(now_ns),
    }
    if path == HEALTHZ:
        answer["nodeEligible"] = health.node_eligible
    answer["healthy"] = health.healthy
    # a family that only waits for its first lists is none yet
    status = {
        family.label: {"lastUpdated": timestamp(each.updated_ns), "healthy": each.healthy}
        for family, each in sorted(health.families.items())
        if each.updated_ns or not each.healthy
    }
    if status:
        answer["status"] = status
    body = json.dumps(answer, separators=(",", ":"))
    return Reply(200 if is_good else 503, body.encode(), JSON)


def timestamp(ns: int) -> str:
    """Return a time as Go marshals it in UTC (RFC3339Nano): no zeros at the end."""
    if not ns:
        return _NEVER
    seconds, fraction = divmod(ns, 1_000_000_000)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{text}{digits}Z"


class HealthServer:
    """Serves health; an address that cannot be had is tried again every 5 s, for ever (A12.7).

    `failed` is called with what went wrong, once as long as it is the same, from a thread of its
    own; with `hard` nothing is tried again.
    """

    def __init__(
        self,
        http: HttpServer,
        address: tuple[str, int],
        health: Callable[[], Health],
        *,
        failed: Callable[[str], None] = log.warning,
        hard: bool = False,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._http = http
        self._address = address
        self._health = health
        self._failed = failed
        self._hard = hard
        self._now_ns = now_ns
        self._stopping = threading.Event()
        self._counts: dict[tuple[str, int], int] = {}
        self._thread = threading.Thread(target=self._run, name="healthz", daemon=True)
        self.failure = ""

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Try no more; the sockets are HttpServer's."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def counts(self) -> Mapping[tuple[str, int], int]:
        """Return how often what was answered: by "healthz" or "livez", and the code."""
        return MappingProxyType(self._counts.copy())

    def answer(self, path: str) -> Reply:
        """Answer a request; everything but the two is not found (parity A12.1)."""
        if path not in {HEALTHZ, LIVEZ}:
            return NOT_FOUND
        reply = proxy_health(self._health(), path, self._now_ns())
        key = path.removeprefix("/"), reply.status
        self._counts[key] = self._counts.get(key, 0) + 1
        return reply

    def _run(self) -> None:
        """Listen, and end: all else is done by the server's own thread."""
        host, port = self._address
        while not self._stopping.is_set():
            try:
                sock = listening(host, port, both=True)
            except OSError as error:
                self._fail(f"{_text(host)}:{port}: {error.strerror}")
                if self._hard:
                    return
                self._stopping.wait(RETRY_S)
                continue
            if self.failure:
                log.info("healthz listens on %s:%d now", _text(host), port)
            self.failure = ""
            self._http.open([Listener(sock, self.answer)])
            return

    def _fail(self, why: str) -> None:
        before, self.failure = self.failure, f"failed to start proxy healthz on {why}"
        if before != self.failure:
            self._failed(self.failure)


def _text(host: str) -> str:
    return f"[{host}]" if ":" in host else host
