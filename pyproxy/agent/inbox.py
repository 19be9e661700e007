# SPDX-License-Identifier: Apache-2.0
"""The objects of the cluster as events bring them, and what is wrong with their sources."""

from __future__ import annotations

import logging

from pyproxy.agent.problems import Problem, conflict, malformed, unreadable
from pyproxy.kube.events import (
    ANY_SERVICE,
    Change,
    Event,
    Kind,
    NodeListed,
    Record,
    Report,
    Synced,
    Trouble,
)
from pyproxy.model import (
    EndpointSlice,
    Node,
    ObjectName,
    Service,
    ServicePortName,
    endpoint_text,
)
from pyproxy.plan.options import Options
from pyproxy.plan.world import World

log = logging.getLogger(__name__)


class Inbox:
    """Takes events into a World; `synced` is set once every initial list has arrived.

    `knows_node`: whether there is a Node object of this node is known.
    """

    def __init__(self, options: Options) -> None:
        self.world = World(options)
        self.reports: dict[str, Report] = {}
        self.troubles: dict[str, Trouble] = {}
        self.synced = False
        self.knows_node = False

    def take(self, event: Event) -> None:
        """Take one event; nothing is planned yet."""
        if isinstance(event, Synced):
            self.synced = self.knows_node = True
        elif isinstance(event, NodeListed):
            self.knows_node = True
        elif isinstance(event, Report):
            self._report(event)
        elif isinstance(event, Trouble):
            self._trouble(event)
        elif event.object is None:
            self._drop(event)
        else:
            self._put(event.object)

    def may_lack(self, name: ServicePortName) -> bool:
        """Return whether a service port may be there though no source shows it."""
        mine = (ANY_SERVICE, ObjectName(name.namespace, name.name))
        return any(report.lacks in mine for report in self.reports.values())

    def problems(self) -> list[Problem]:
        """Return what is wrong with the objects."""
        found = [unreadable(*self.troubles[source]) for source in sorted(self.troubles)]
        found += [malformed(each.source, each.message) for each in sorted(self.reports.values())]
        for each in self.world.conflicts():
            losers = ", ".join(str(loser) for loser in each.losers)
            address = endpoint_text(each.frontend.address, each.frontend.port)
            found.append(conflict(address, str(each.winner), losers))
        return found

    def _report(self, event: Report) -> None:
        if event.message:
            if self.reports.get(event.source) != event:
                log.error("%s: %s", event.source, event.message)
            self.reports[event.source] = event
        elif self.reports.pop(event.source, None):
            log.info("%s is right again", event.source)

    def _trouble(self, event: Trouble) -> None:
        if event.message:
            log.error("%s: %s", event.source, event.message)
            self.troubles[event.source] = event
        elif self.troubles.pop(event.source, None):
            log.info("%s is read again", event.source)

    def _put(self, thing: Record) -> None:
        if isinstance(thing, Service):
            self.world.put_service(thing)
        elif isinstance(thing, EndpointSlice):
            self.world.put_slice(thing)
        elif isinstance(thing, Node):
            self.world.put_node(thing)
        else:
            self.world.put_service_cidr(thing)

    def _drop(self, event: Change) -> None:
        if event.kind is Kind.SERVICE:
            self.world.drop_service(event.name)
        elif event.kind is Kind.ENDPOINT_SLICE:
            self.world.drop_slice(event.name)
        elif event.kind is Kind.NODE:
            self.world.drop_node(event.name.name)
        else:
            self.world.drop_service_cidr(event.name.name)
