# SPDX-License-Identifier: Apache-2.0
"""Events (events.k8s.io/v1) about Services: what they say, and by which name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from pyproxy.model import ServicePortName

GROUP = "events.k8s.io"
CONTROLLER = "pyproxy"
REASON = "PortNotServed"
ACTION = "ServePort"

# The API server's limits (pkg/apis/core/validation/events.go), which it counts in bytes.
_INSTANCE_BYTES = 128
_NOTE_BYTES = 1024

Tell: TypeAlias = Callable[[Mapping[ServicePortName, str], Callable[[ServicePortName], str]], None]
"""Who is told of all service ports that are not served, each with a sentence that says why.

The second argument gives the uid of a service port's Service.
"""


def tell_nobody(
    _wanted: Mapping[ServicePortName, str], _uid_of: Callable[[ServicePortName], str]
) -> None:
    """Do nothing: there is no API server (`Tell`)."""


class Notice(NamedTuple):
    """Why a service port is not served; `uid` is its Service's, "" where it is unknown."""

    port: ServicePortName
    uid: str
    note: str


def path_of(notice: Notice) -> str:
    """Return where an Event about a Service is posted: in the Service's namespace."""
    return f"/apis/{GROUP}/v1/namespaces/{quote(notice.port.namespace, safe='')}/events"


def event(notice: Notice, node: str, now: float) -> dict[str, Any]:
    """Return the Event that a node posts at `now`, in seconds since the epoch.

    The fields are those of client-go's recorder (tools/events/event_recorder.go), the uid among
    them: `kubectl describe` asks for Events by it. The name, unlike client-go's, is the same on
    every node, so that ten thousand of them make one Event: the others get 409.
    """
    port = notice.port
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Event",
        "metadata": {"name": _name(notice), "namespace": port.namespace},
        "eventTime": _micro_time(now),
        "reportingController": CONTROLLER,
        "reportingInstance": _cut(node, _INSTANCE_BYTES),
        "action": ACTION,
        "reason": REASON,
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": port.namespace,
            "name": port.name,
            **({"uid": notice.uid} if notice.uid else {}),
        },
        "note": _cut(notice.note, _NOTE_BYTES),
        "type": "Warning",
    }


def _name(notice: Notice) -> str:
    """Return the Service's name and a digest, as long as the number that client-go puts there."""
    said = "\0".join((notice.uid, REASON, str(notice.port), notice.note))
    digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    return f"{notice.port.name}.{digest}"


def _micro_time(now: float) -> str:
    """Return a MicroTime: RFC 3339 with six digits of a second."""
    text = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")
