# SPDX-License-Identifier: Apache-2.0
"""The health servers as the agent's one thread drives them: when they listen, and for whom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from pyproxy.agent.config import RunConfig
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.messages import Messages, ServersChanged, Stop
from pyproxy.agent.problems import (
    Problem,
    check_not_served,
    healthz_not_served,
    metrics_not_served,
)
from pyproxy.kube.notices import Notice, Teller, check_notice
from pyproxy.model import Address, Family, ObjectName
from pyproxy.plan.health import HealthCheck
from pyproxy.plan.options import Options, health_check_addresses
from pyproxy.serve.health import HealthServer
from pyproxy.serve.http import HttpServer
from pyproxy.serve.service_health import ServiceHealth

log = logging.getLogger(__name__)

NODE_IP_WAIT_S = 30.0  # parity A12.1
LAST_WORDS_S = 5.0

Checks = Mapping[ObjectName, HealthCheck]


def bind_failed(
    reason: str, teller: Teller, messages: Messages, *, hard: bool
) -> Callable[[str], None]:
    """Return what is done where a server cannot listen; it is called with a sentence that says why.

    There is an Event of this `reason` about the node (parity A17.11), and with bindAddressHardFail
    the agent ends (A12.7).
    """

    def failed(why: str) -> None:
        log.error(why)
        teller.about_node(reason, why, wait_s=LAST_WORDS_S if hard else 0.0)
        messages.put(
            Stop(why, "free the address or give another one") if hard else ServersChanged()
        )

    return failed


class Serving:
    """Opens /healthz when kube-proxy does, and health-check node ports after a family is synced.

    `own` gives the addresses of the node's interfaces of a family; where nodePortAddresses choose
    of them, that is done once, at the first sync (parity A11.6).
    """

    def __init__(
        self,
        config: RunConfig,
        http: HttpServer,
        healthz: HealthServer | None,
        *,
        is_healthy: Callable[[], bool],
        teller: Teller,
        own: Callable[[Family], Iterable[Address]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = config.options.node_name
        self._waits_for_ip = config.manifests is None
        self._http = http
        self._healthz = healthz
        self._is_healthy = is_healthy
        self._teller = teller
        self._own = own
        self._clock = clock
        # handed in by who serves them
        self.metrics_failure: Callable[[], str] = str
        self._told: list[Problem] = []
        self._is_open = healthz is None
        self._node_known_at: float | None = None
        self._services: dict[Family, ServiceHealth] = {}
        self._served: dict[Family, Checks] = {}
        self._failures: dict[Family, frozenset[Notice]] = {}
        self._portless: set[ObjectName] = set()

    def patience(self) -> float | None:
        """Return for how many seconds nothing is due, None for as long as nothing happens."""
        if self._is_open or self._node_known_at is None:
            return None
        return max(self._node_known_at + NODE_IP_WAIT_S - self._clock(), 0.0)

    def open(self, inbox: Inbox) -> None:
        """Open /healthz once the Node is known and has addresses, or 30 s have passed (A12.1)."""
        if self._is_open or not inbox.knows_node:
            return
        if self._node_known_at is None:
            self._node_known_at = self._clock()
        has_ip = bool(inbox.world.node and inbox.world.node.addresses)
        if has_ip or not self._waits_for_ip or self.patience() == 0:
            self._is_open = True
            if self._healthz:
                self._healthz.start()

    def serve(self, checks: Checks, options: Options, written: Collection[Family]) -> bool:
        """Bring the health-check node ports of families that are synced up to date.

        Returns whether it has become another one what cannot be served. Where the Node's own
        addresses are to listen they are waited for, as for /healthz: they are chosen once.
        """
        if options.node_ports_on_primary and not options.node_ips and not self._is_open:
            return False
        changed = [each for each in written if self._served.get(each) is not checks]
        return self._sync(changed, checks, options) if changed else False

    def retry(self, checks: Checks, options: Options) -> bool:
        """Try again what could not be served; return whether problems() has become another one."""
        failed = [family for family, found in self._failures.items() if found]
        changed = self._sync(failed, checks, options) if failed else False
        # servers try by themselves, and nobody tells when one listens at last
        return changed or self._server_problems() != self._told

    def counts(self) -> Mapping[tuple[str, int], int]:
        """Return how often /healthz and /livez were answered (HealthServer.counts)."""
        return self._healthz.counts() if self._healthz else {}

    def problems(self) -> list[Problem]:
        """Return what cannot be served and why."""
        self._told = self._server_problems()
        return self._told + [
            check_not_served(note) for note in sorted(each.note for each in self._all())
        ]

    def _server_problems(self) -> list[Problem]:
        failure = self._healthz.failure if self._healthz else ""
        found = [healthz_not_served(failure)] if failure else []
        if why := self.metrics_failure():
            found.append(metrics_not_served(why))
        return found

    def _all(self) -> frozenset[Notice]:
        return frozenset().union(*self._failures.values())

    def _sync(self, families: Iterable[Family], checks: Checks, options: Options) -> bool:
        before = self._all()
        for family in families:
            self._failures[family] = self._sync_family(family, checks, options)
            self._served[family] = checks
        self._complain(checks)
        after = self._all()
        for notice in after - before:
            log.error(notice.note)
        if after != before:
            self._teller.tell_checks(after)
        return after != before

    def _sync_family(self, family: Family, checks: Checks, options: Options) -> frozenset[Notice]:
        """Return what cannot be served of a family."""
        mine = {
            name: each for name, each in checks.items() if each.port and family in each.endpoints
        }
        if family not in self._services:
            try:
                addresses = health_check_addresses(family, options, self._own(family))
            except OSError as error:
                why = f"the node's addresses are not known: {error}"
                return frozenset(self._notice(name, each, why) for name, each in mine.items())
            self._services[family] = ServiceHealth(self._http, addresses, self._is_healthy)
        server = self._services[family]
        failures = server.sync_services({name: each.port for name, each in mine.items()})
        server.sync_endpoints({name: each.endpoints[family] for name, each in mine.items()})
        return frozenset(self._notice(name, mine[name], why) for name, why in failures.items())

    def _notice(self, name: ObjectName, check: HealthCheck, why: str) -> Notice:
        note = f'node {self._node} failed to start healthcheck "{name}" on port {check.port}: {why}'
        return check_notice(name, check.uid, note)

    def _complain(self, checks: Checks) -> None:
        """Name services that should have a port and have none, once each (parity A10.5)."""
        portless = {name for name, each in checks.items() if not each.port}
        for name in sorted(portless - self._portless):
            log.error("Service %s needs a healthCheckNodePort and has none: nobody is told", name)
        self._portless = portless
