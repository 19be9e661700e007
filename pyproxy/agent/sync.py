# SPDX-License-Identifier: Apache-2.0
"""Both families' syncers, and what they could not do."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

from pyproxy.agent.kernel import Loaded
from pyproxy.agent.meters import Meters
from pyproxy.agent.problems import Problem, kept, not_served, refused, sync_failed
from pyproxy.errors import KernelError
from pyproxy.kernel.inspect import MapStatus
from pyproxy.model import Family, Prefix, Protocol, ServicePortName, family_of
from pyproxy.plan.claims import PlanKey
from pyproxy.plan.options import Mode, Options
from pyproxy.sync.api import Room
from pyproxy.sync.syncer import Syncer, nothing
from pyproxy.tables import Frontend, Kind, PortPlan

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 30.0  # kube-proxy's syncPeriod, after which it tries again (parity A15.2)


MAP_NAMES = {"nodes": "node_names"}  # fields of Room that the kernel's maps are not called by


def serves(plan: PortPlan, frontend: Frontend) -> bool:
    """Return whether the datapath serves a frontend: SCTP only where the port stays the same.

    The checksum of SCTP is of the whole packet (RFC 9260 6.8), and no program can make it.
    """
    if frontend.key.protocol != Protocol.SCTP:
        return True
    return all(backend.port == frontend.key.port for backend in plan.backends)


class Syncers:
    """Writes plans to the maps of both families; a failure in one leaves the other alone."""

    def __init__(self, loaded: dict[Family, Loaded], meters: Meters | None = None) -> None:
        self._meters = meters or Meters(tuple(loaded))
        self.syncers = {f: Syncer(each.datapath, serves) for f, each in loaded.items()}
        self._not_served: dict[PlanKey, str] = {}
        self._failed: dict[Family, str] = {}
        self._retry_after_s = RETRY_FIRST_S
        self.retry_at: float | None = None
        self._datapaths = {family: each.datapath for family, each in loaded.items()}
        # what an earlier agent has left there is brought up to date at first
        self._strict_with: tuple[Prefix, ...] | None = None
        self._strict_failure = ""
        self._knows_strict = False
        self.last_success = 0.0
        self.last_seconds = 0.0

    @property
    def failed(self) -> frozenset[Family]:
        """The families whose maps are not what they should be."""
        return frozenset(self._failed)

    @property
    def unwritten(self) -> frozenset[Family]:
        """The families whose maps are not what they should be, ServiceCIDRs included."""
        return frozenset(self.syncers if self._strict_failure else self._failed)

    @property
    def written(self) -> frozenset[Family]:
        """The others."""
        return frozenset(self.syncers) - self.unwritten

    def apply(
        self,
        changes: dict[PlanKey, PortPlan | None],
        may_lack: Callable[[ServicePortName], bool] = nothing,
    ) -> None:
        """Take over changed plans and write what differs; failures are noted for a retry.

        What an earlier agent programmed and nobody wants is kept if `may_lack` says that it may
        only be unreadable now.
        """
        started = time.perf_counter()
        _tell(changes)
        self._note_unserved(changes)
        written = 0
        for family, syncer in self.syncers.items():
            mine = {key.name: plan for key, plan in changes.items() if key.family is family}
            written += self._apply(family, syncer, mine, may_lack)
        if self._failed:
            return
        self.retry_at, self._retry_after_s = None, RETRY_FIRST_S
        self.last_success, self.last_seconds = time.time(), time.perf_counter() - started
        if written:
            ms = self.last_seconds * 1000
            log.info("%d plans changed, %d entries written in %.1f ms", len(changes), written, ms)

    def restrict(self, options: Options) -> None:
        """Refuse and drop what is for no service, as the mode wants it (parity A8.6, A8.7)."""
        wanted = options.service_cidrs if options.mode is Mode.NFTABLES else None
        if wanted == self._strict_with and self._knows_strict:
            return
        try:
            for family, datapath in self._datapaths.items():
                own = [c for c in wanted or () if family_of(c.address) is family]
                datapath.restrict(None if wanted is None else tuple(own))
        except KernelError as error:
            self._knows_strict, self._strict_failure = False, str(error)
            log.warning("ServiceCIDRs and ClusterIPs: %s", error)
            self.retry_at = time.monotonic() + RETRY_MOST_S
        else:
            self._knows_strict, self._strict_with, self._strict_failure = True, wanted, ""

    def _apply(
        self,
        family: Family,
        syncer: Syncer,
        plans: dict[ServicePortName, PortPlan | None],
        may_lack: Callable[[ServicePortName], bool],
    ) -> int:
        known = set(syncer.refused)
        started, failed = time.perf_counter(), True
        try:
            written = syncer.apply(plans, may_lack)
            failed = False
        except KernelError as error:
            self._fail(family, error)
            return 0
        finally:
            took = time.perf_counter() - started
            # one that had nothing to do says nothing
            if plans or syncer.was_full:
                self._meters.wrote(family, took, full=syncer.was_full, failed=failed)
        self._failed.pop(family, None)
        for name in syncer.refused.keys() - known:
            log.error("%s is not programmed for %s: %s", name, family.label, syncer.refused[name])
        self._end_left(family)
        return written

    def _end_left(self, family: Family) -> None:
        """Tell the node's own connected UDP sockets that their backend has left."""
        started = time.perf_counter()
        try:
            ended = self._datapaths[family].end_left()
        except OSError as error:
            log.warning("connected UDP sockets keep a backend that left: %s", error)
        else:
            self._meters.ended(family, time.perf_counter() - started, ended)
            if ended:
                log.info("ended %d connected UDP sockets whose backend has left", ended)

    def _fail(self, family: Family, error: KernelError) -> None:
        log.warning("%s: %s; retry in %.0f s", family.label, error, self._retry_after_s)
        self._failed[family] = str(error)
        self.retry_at = time.monotonic() + self._retry_after_s
        self._retry_after_s = min(self._retry_after_s * 2, RETRY_MOST_S)

    def audit(self) -> Iterator[None]:
        """Compare the maps with what was written, in steps of a few ms; mend and tell of harm."""
        for family, syncer in self.syncers.items():
            harm: Counter[str] = Counter()
            try:
                for mended in syncer.audit():
                    harm.update(mended)
                    yield
            except KernelError as error:
                self._fail(family, error)
            self._meters.restored(family, harm)
            if harm:
                told = ", ".join(f"{number} in {name}" for name, number in sorted(harm.items()))
                log.warning(
                    "%s: entries of our maps were missing or changed: %s; written again",
                    family.label,
                    told,
                )
        self._meters.settled(self.failed)

    def idle(self) -> None:
        """Use a quiet moment: free what was replaced, and place what did not fit."""
        for syncer in self.syncers.values():
            syncer.reclaim()
        if any(syncer.can_retry for syncer in self.syncers.values()):
            self.apply({}, self.kept.__contains__)

    @property
    def has_idle_work(self) -> bool:
        """Whether idle() has something to do."""
        return any(s.has_limbo or s.can_retry for s in self.syncers.values())

    def problems(self) -> list[Problem]:
        """Return what is not in the kernel and why."""
        found = [sync_failed(family.label, text) for family, text in self._failed.items()]
        if self._strict_failure:
            found.append(sync_failed("ServiceCIDRs and ClusterIPs", self._strict_failure))
        for syncer in self.syncers.values():
            found += [refused(str(name), why) for name, why in sorted(syncer.refused.items())]
        found += [kept(str(name)) for name in sorted(self.kept)]
        return found + [not_served(str(name), ports) for name, ports in self.unserved.items()]

    @property
    def unserved(self) -> dict[ServicePortName, str]:
        """By which of their ports service ports are not served; each family's are the same."""
        return {key.name: ports for key, ports in sorted(self._not_served.items())}

    @property
    def notes(self) -> dict[ServicePortName, str]:
        """The service ports that are not served, each with the sentence that status has."""
        return {name: not_served(str(name), why).message for name, why in self.unserved.items()}

    @property
    def kept(self) -> set[ServicePortName]:
        """The service ports of an earlier agent that nobody wants, and that may be unreadable."""
        return {name for syncer in self.syncers.values() for name in syncer.kept}

    @property
    def refused(self) -> int:
        """How many service ports are not programmed."""
        names = {name for syncer in self.syncers.values() for name in syncer.refused}
        return len(names | self.unserved.keys())

    def counts(self) -> tuple[int, int]:
        """Return how many Services and how many backends are programmed."""
        entries = [s.books.programmed for s in self.syncers.values()]
        services = {(n.namespace, n.name) for programmed in entries for n in programmed}
        backends = sum(len(p.state.backends) for each in entries for p in each.values())
        return len(services), backends

    def service_ids(self, family: Family) -> dict[ServicePortName, int]:
        """Return the ids of a family's service ports; for other threads, too."""
        # one step that no other thread comes into, as the books are changed meanwhile
        entries = list(self.syncers[family].books.programmed.items())
        return {name: entry.service for name, entry in entries}

    def map_uses(self) -> list[MapStatus]:
        """Return how full the maps are, by the names and limits that status has."""
        return [
            MapStatus(
                f"{family.label} {MAP_NAMES.get(name, name)}", used, most - (name == "services")
            )
            for family, syncer in self.syncers.items()
            for name, used, most in zip(
                Room._fields, syncer.books.counts(), syncer.books.room, strict=True
            )
        ]

    def node_ports(self) -> set[int]:
        """Return the ports by which addresses that may be the node's are served."""
        frontends = (syncer.books.frontends for syncer in self.syncers.values())
        return {
            key.port
            for each in frontends
            for key, value in each.items()
            if value.kind is not Kind.CLUSTER_IP
        }

    def _note_unserved(self, changes: dict[PlanKey, PortPlan | None]) -> None:
        for key, plan in changes.items():
            if key.name.protocol is not Protocol.SCTP:
                continue
            ports = _unserved(plan) if plan else ""
            if not ports:
                self._not_served.pop(key, None)
            elif self._not_served.get(key) != ports:
                self._not_served[key] = ports
                log.warning("%s is not served by %s: SCTP with a changed port", key.name, ports)


def _tell(changes: dict[PlanKey, PortPlan | None]) -> None:
    """Log what was planned, for who looks for a fault."""
    for key, plan in changes.items() if log.isEnabledFor(logging.DEBUG) else ():
        many = (len(plan.frontends), len(plan.backends)) if plan else (0, 0)
        log.debug("%s, %s: %d frontends, %d backends", key.name, key.family.label, *many)


def _unserved(plan: PortPlan) -> str:
    """Return by which ports a plan is not served, and where they lead."""
    missing = sorted({each.key.port for each in plan.frontends if not serves(plan, each)})
    targets = sorted({backend.port for backend in plan.backends})
    if not missing:
        return ""
    return f"port {_words(missing)}, which leads to {_words(targets)}"


def _words(ports: list[int]) -> str:
    return ", ".join(map(str, ports))
