# SPDX-License-Identifier: Apache-2.0
"""Events (events.k8s.io/v1) about Services and this node: what they say, and by which name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from pyproxy.model import ObjectName, ServicePortName

GROUP = "events.k8s.io"
CONTROLLER = "pyproxy"
REASON = "PortNotServed"
ACTION = "ServePort"

# The API server's limits (pkg/apis/core/validation/events.go), which it counts in bytes.
_INSTANCE_BYTES = 128
_NOTE_BYTES = 1024

# where Events about objects without a namespace are, and only there
_OF_NO_NAMESPACE = "default"

Tell: TypeAlias = Callable[[Mapping[ServicePortName, str], Callable[[ServicePortName], str]], None]
"""Who is told of all service ports that are not served, each with a sentence that says why.

The second argument gives the uid of a service port's Service.
"""


class Notice(NamedTuple):
    """What an Event says about an object of a `kind`; its `uid` is "" where it is unknown.

    `subject` tells apart what else would have the same name: the service port, a moment. `at` is
    when it happened, in seconds since the epoch, 0.0 for when it is posted.
    """

    kind: str
    name: ObjectName
    uid: str
    reason: str
    action: str
    note: str
    type: str = "Warning"
    subject: str = ""
    at: float = 0.0


class Teller(Protocol):
    """Who posts Events. Nobody waits for the API server, but where `wait_s` says so."""

    def tell(
        self, wanted: Mapping[ServicePortName, str], uid_of: Callable[[ServicePortName], str]
    ) -> None:
        """Take all service ports that are not served now (`Tell`)."""
        ...

    def tell_checks(self, failures: Iterable[Notice]) -> None:
        """Take all health-check node ports that are not served now."""
        ...

    def about_node(
        self, reason: str, note: str, *, kind: str = "Warning", wait_s: float = 0.0
    ) -> None:
        """Post an Event about this node at once; wait so many seconds for that to be done."""
        ...


class TellNobody:
    """There is no API server (`Teller`)."""

    def tell(
        self, wanted: Mapping[ServicePortName, str], uid_of: Callable[[ServicePortName], str]
    ) -> None:
        """Do nothing."""

    def tell_checks(self, failures: Iterable[Notice]) -> None:
        """Do nothing."""

    def about_node(
        self, reason: str, note: str, *, kind: str = "Warning", wait_s: float = 0.0
    ) -> None:
        """Do nothing."""


def port_notice(port: ServicePortName, uid: str, note: str) -> Notice:
    """Return why a service port is not served."""
    name = ObjectName(port.namespace, port.name)
    return Notice("Service", name, uid, REASON, ACTION, note, subject=str(port))


def check_notice(name: ObjectName, uid: str, note: str) -> Notice:
    """Return why a health-check node port is not served on a node (parity A11.7)."""
    reason = "FailedToStartServiceHealthcheck"
    return Notice("Service", name, uid, reason, "Listen", note)


def node_notice(node: str, reason: str, note: str, kind: str, at: float) -> Notice:
    """Return what happened on a node (parity A17.11); its name stands for its uid, as there."""
    name = ObjectName("", node)
    return Notice("Node", name, node, reason, "StartKubeProxy", note, kind, str(at), at)


def path_of(notice: Notice) -> str:
    """Return where an Event is posted: in the namespace of what it is about."""
    return f"/apis/{GROUP}/v1/namespaces/{quote(_namespace(notice), safe='')}/events"


def event(notice: Notice, node: str, now: float) -> dict[str, Any]:
    """Return the Event that a node posts at `now`, in seconds since the epoch.

    The fields are those of client-go's recorder (tools/events/event_recorder.go), the uid among
    them: `kubectl describe` asks for Events by it. The name, unlike client-go's, is made of what is
    said, so that ten thousand nodes that say the same make one Event: the others get 409.
    """
    regarding = {
        "namespace": notice.name.namespace,
        "name": notice.name.name,
        "uid": notice.uid,
    }
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Event",
        "metadata": {"name": _name(notice), "namespace": _namespace(notice)},
        "eventTime": _micro_time(notice.at or now),
        "reportingController": CONTROLLER,
        "reportingInstance": _cut(node, _INSTANCE_BYTES),
        "action": notice.action,
        "reason": notice.reason,
        "regarding": {
            "apiVersion": "v1",
            "kind": notice.kind,
            **{key: value for key, value in regarding.items() if value},
        },
        "note": _cut(notice.note, _NOTE_BYTES),
        "type": notice.type,
    }


def _namespace(notice: Notice) -> str:
    return notice.name.namespace or _OF_NO_NAMESPACE


def _name(notice: Notice) -> str:
    """Return the object's name and a digest, as long as the number that client-go puts there."""
    said = f"{notice.uid}\0{notice.reason}\0{notice.subject}\0{notice.note}"
    digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    return f"{notice.name.name}.{digest}"


def _micro_time(now: float) -> str:
    """Return a MicroTime: RFC 3339 with six digits of a second."""
    text = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")
