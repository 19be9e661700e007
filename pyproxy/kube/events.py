# SPDX-License-Identifier: Apache-2.0
"""What a source of Kubernetes objects tells the agent.

A source runs its own thread and only ever calls `put`; all state belongs to whoever takes
the events out of the queue. Every event is safe to see twice.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from pyproxy.model import EndpointSlice, Node, ObjectName, Service, ServiceCIDR

Record: TypeAlias = Service | EndpointSlice | Node | ServiceCIDR


class Kind(enum.Enum):
    """The kinds of objects that are read; the values are Kubernetes' names of the kinds."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    SERVICE_CIDR = "ServiceCIDR"


class Change(NamedTuple):
    """An object is now so; None where it is gone or is not to be proxied.

    `name` has the namespace "" for a Node and a ServiceCIDR. `trigger_time` is when what made an
    EndpointSlice so has happened, in seconds since the epoch, 0.0 where that is not known: its
    annotation endpoints.kubernetes.io/last-change-trigger-time. It is no part of the object, since
    nobody needs to remember it.
    """

    kind: Kind
    name: ObjectName
    object: Record | None
    trigger_time: float = 0.0


class Synced(NamedTuple):
    """Every initial list has been delivered: the state is complete for the first time."""


class NodeListed(NamedTuple):
    """Whether this node has a Node object is known: it has been delivered, or there is none.

    Synced says so, too; a source need not have both.
    """


ANY_SERVICE = ObjectName("", "")


class Report(NamedTuple):
    """Something about `source` is malformed or stands twice; message "" means mended.

    `source` is a file, a directory or an object reference; there is one report in force per
    source, a later one replaces it. The last good state of the source stays in force.
    `lacks` is the Service that may be missing for it: ANY_SERVICE where nobody can tell, None
    where none is.
    """

    source: str
    message: str
    lacks: ObjectName | None = ANY_SERVICE


class Trouble(NamedTuple):
    """Objects cannot be read now; what was read before stays in force. "" means over.

    `source` is what fails ("API server", "API server: services"), one trouble in force each;
    `since` is when it began, in seconds since the epoch.
    """

    source: str
    message: str
    since: float


Event: TypeAlias = Change | Synced | NodeListed | Report | Trouble


class Source(Protocol):
    """Where objects come from. Implementations take `put: Callable[[Event], None]`."""

    def start(self) -> None:
        """Begin to deliver events from a thread of its own.

        Raises SourceError where nothing can ever be read (no such directory, no such server).
        """

    def stop(self) -> None:
        """End the thread; no event is put after this returned. Safe to call twice."""


Put: TypeAlias = Callable[[Event], None]
