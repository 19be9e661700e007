# SPDX-License-Identifier: Apache-2.0
"""What the agent counts of its own work, by kube-proxy's rules where it has the metric (A20)."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from pyproxy.agent import kubeproxymetrics as kp
from pyproxy.agent.report import State
from pyproxy.kernel.inspect import MapStatus
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.events import Change, Kind
from pyproxy.meters import Histogram, Meter, Reading, Spec, Type
from pyproxy.model import EndpointSlice, Family, ObjectName
from pyproxy.plan.claims import PlanKey
from pyproxy.tables import PortPlan, ServiceFlag

MOST_TRIGGERS = 10_000  # that wait for one sync; what comes then is not measured

# kube-proxy's modes that can write less than all there is (A20.2)
PARTIAL_MODES = ("iptables", "nftables")

SYNC_ERRORS = Spec(
    "pyproxy_sync_errors_total",
    Type.COUNTER,
    "Writes to the maps that failed; each is tried again.",
    kp.FAMILY,
)
RESTORED = Spec(
    "pyproxy_restored_entries_total",
    Type.COUNTER,
    "Entries of our maps that others had removed or changed, and that were written again.",
    ("map", *kp.FAMILY),
)
_POLICIES = {
    "internal": ServiceFlag.INTERNAL_LOCAL.value,
    "external": ServiceFlag.EXTERNAL_LOCAL.value,
}
_HAS_ENDPOINTS = ServiceFlag.HAS_ENDPOINTS.value


class Meters:
    """Counts for the thread that owns the agent's state; read() is for any.

    `families` are the node's, `proxy_mode` is kube-proxy's word for the mode; `clock` gives seconds
    since the epoch. `state` is the agent's last report, and `maps` is how full the maps were then:
    both are replaced and never changed.
    """

    def __init__(
        self,
        families: Collection[Family],
        proxy_mode: str = "iptables",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._families = tuple(families)
        labels = [(family.label,) for family in families]
        self._sync = Histogram(kp.SYNC_DURATION, labels)
        self._full = Histogram(kp.FULL_SYNC_DURATION, labels)
        self._partial = Histogram(kp.PARTIAL_SYNC_DURATION, labels)
        self._has_partial = proxy_mode in PARTIAL_MODES
        self._programming = Histogram(kp.PROGRAMMING_DURATION, labels)
        self._last, self._queued = Meter(kp.LAST_SYNC, labels), Meter(kp.LAST_QUEUED, labels)
        self._pending = {
            Kind.SERVICE: Meter(kp.SERVICES_PENDING),
            Kind.ENDPOINT_SLICE: Meter(kp.ENDPOINTS_PENDING),
        }
        self._total = {
            Kind.SERVICE: Meter(kp.SERVICES_TOTAL),
            Kind.ENDPOINT_SLICE: Meter(kp.ENDPOINTS_TOTAL),
        }
        self._ending = Histogram(kp.RECONCILER_DURATION, labels)
        self._ended = Meter(kp.RECONCILER_DELETED, labels)
        self._errors = Meter(SYNC_ERRORS, labels)
        self._restored = Meter(RESTORED)
        self._no_local = Meter(
            kp.NO_LOCAL_ENDPOINTS, [(policy, *each) for policy in _POLICIES for each in labels]
        )
        self._without: dict[str, set[PlanKey]] = {policy: set() for policy in _POLICIES}
        self._triggers: defaultdict[Family, dict[ObjectName, list[float]]] = defaultdict(dict)
        self._waiting: Counter[Family] = Counter()
        self.state: State | None = None
        self.maps: list[MapStatus] = []
        self.api = ApiMeters()
        self._queue(self._families)

    def changed(self, event: Change) -> None:
        """Note a change that came in and has to get into the maps."""
        slice_ = event.object if isinstance(event.object, EndpointSlice) else None
        if slice_ and slice_.family not in self._families:
            return  # nobody writes it (A1.9)
        self._queue([slice_.family] if slice_ else self._families)
        if event.kind not in self._total:
            return
        # every family's part of kube-proxy hears of a Service (A20.5)
        times = len(self._families) if event.kind is Kind.SERVICE else 1
        self._total[event.kind].add(by=times)
        self._pending[event.kind].add(by=times)
        if slice_ and event.trigger_time > self._started:
            self._note_trigger(slice_, event.trigger_time)
        elif event.kind is Kind.ENDPOINT_SLICE and slice_ is None:
            # what is gone was triggered by nothing that could be measured (A20.3)
            for family, waiting in self._triggers.items():
                self._waiting[family] -= len(waiting.pop(event.name, ()))

    @property
    def waiting(self) -> int:
        """How many changes wait for their family to be written, to be measured then."""
        return self._waiting.total()

    def planned(self, changes: Mapping[PlanKey, PortPlan | None]) -> None:
        """Note plans that changed; None for one that is gone."""
        for policy, flag in _POLICIES.items():
            keys = self._without[policy]
            for key, plan in changes.items():
                if plan and _lacks_local(plan, flag):
                    keys.add(key)
                else:
                    keys.discard(key)
            for family in self._families:
                number = sum(1 for key in keys if key.family is family)
                self._no_local.set(number, policy, family.label)

    def wrote(self, family: Family, seconds: float, *, full: bool, failed: bool) -> None:
        """Note an attempt to write what has changed in one family."""
        self._sync.observe(seconds, family.label)
        (self._full if full else self._partial).observe(seconds, family.label)
        if failed:
            self._errors.add(family.label)

    def settled(self, failed: Collection[Family]) -> None:
        """Note that the maps are what they should be, but for those of `failed` families."""
        now = self._clock()
        for family in self._families:
            if family not in failed:
                self._last.set(now, family.label)
                self._waiting.pop(family, None)
                for triggers in self._triggers.pop(family, {}).values():
                    for trigger in triggers:
                        self._programming.observe(now - trigger, family.label)
        if not failed:
            for meter in self._pending.values():
                meter.set(0)

    def ended(self, family: Family, seconds: float, sockets: int) -> None:
        """Note a look for connected UDP sockets whose backend has left, and how many ended."""
        self._ending.observe(seconds, family.label)
        self._ended.add(family.label, by=sockets)

    def restored(self, family: Family, harm: Mapping[str, int]) -> None:
        """Note entries that were written again, by map."""
        for name, number in harm.items():
            self._restored.add(name, family.label, by=number)

    def read(self) -> Iterator[Reading]:
        """Yield everything as it is now, but for what concerns the API server."""
        yield self._sync.read()
        if self._has_partial:
            yield self._full.read()
            yield self._partial.read()
        yield self._programming.read()
        for meter in (self._last, self._queued, self._no_local, self._ended):
            yield meter.read()
        for kind, total in self._total.items():
            yield total.read()
            yield self._pending[kind].read()
        yield self._ending.read()
        yield self._errors.read()
        yield self._restored.read()

    def _queue(self, families: Collection[Family]) -> None:
        now = self._clock()
        for family in families:
            self._queued.set(now, family.label)

    def _note_trigger(self, piece: EndpointSlice, time_: float) -> None:
        if self._waiting[piece.family] < MOST_TRIGGERS:
            self._waiting[piece.family] += 1
            self._triggers[piece.family].setdefault(piece.name, []).append(time_)


def _lacks_local(plan: PortPlan, policy: int) -> bool:
    """Return whether a Local policy leaves a plan without endpoints that are elsewhere (A20.6)."""
    wanted = policy | _HAS_ENDPOINTS
    return plan.flags.value & wanted == wanted and not plan.local_count
