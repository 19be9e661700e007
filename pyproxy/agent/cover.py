# SPDX-License-Identifier: Apache-2.0
"""The packet path on every device: those there are at the start, and new ones as they appear.

It waits for no list of objects and for no other thread: covering a device takes the kernel two
RCU grace periods, which must not delay the maps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from pyproxy.errors import KernelError
from pyproxy.kernel import netlink
from pyproxy.kernel.addresses import device_facts, local_prefixes, node_addresses, node_networks
from pyproxy.kernel.bridges import bridged_families
from pyproxy.kernel.devices import Device, devices
from pyproxy.kernel.entries import Entries
from pyproxy.kernel.fastpath import FastPath, allowed, skipping_devices
from pyproxy.kernel.hops import hop_sources, own_sources
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.model import Address, Family
from pyproxy.plan.options import Options

log = logging.getLogger(__name__)

RETRY_S = 5.0


class Cover:
    """Keeps the devices of this network namespace covered.

    refresh() is called at the start and then by the thread that watches devices; `changed` is
    called whenever `failures` has become another one, `bridged` with the families in which pods
    share a bridge, whenever these have been looked for. Every `check_s` all devices are looked at:
    somebody may have taken programs off one, and nothing tells of that.
    """

    def __init__(
        self,
        entries: Entries,
        paths: Mapping[Family, PacketPath],
        options: Options,
        patterns: tuple[str, ...],
        changed: Callable[[], None],
        *,
        bridged: Callable[[Collection[Family]], None],
        check_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bridged = bridged
        self._clock = clock
        self._check_s = check_s
        self._check_at = clock()
        self._entries = entries
        self._paths = paths
        self._options = options
        # until the Node is known, what an earlier agent knew of it counts
        self._knows_node = not options.needs_node
        self._patterns = patterns
        self._changed = changed
        self._covered: set[Device] = set()
        self._lock = threading.Lock()
        self._facts_lock = threading.Lock()
        self._failures: dict[Device, str] = {}
        self._facts_failure = ""
        self._skipping: dict[int, int] = {}
        self._skipping_failure = ""
        self._addresses: dict[Family, frozenset[Address]] = {}
        # an earlier agent's services whose objects cannot be read are still there
        self._asked_before = frozenset(a for path in paths.values() for a in path.read_asked())
        self._asked = self._asked_before

    @property
    def failures(self) -> list[str]:
        """Which devices could not be covered, and why."""
        with self._lock:
            return sorted(f"{device.name}: {why}" for device, why in self._failures.items())

    @property
    def facts_failure(self) -> str:
        """Why the programs do not know devices, addresses and routes as they are, "" if they do."""
        return self._facts_failure

    def addresses(self, family: Family) -> frozenset[Address]:
        """Return the node's own addresses of a family, as the programs know them."""
        return self._addresses.get(family, frozenset())

    def refresh(self) -> float:
        """Cover devices that are new, all of them now and then, and forget those that are gone.

        Returns after how many seconds to be called again in any case.
        """
        for path in self._paths.values() if self._options.fast_path else ():
            path.forget_ways()
        everything = devices()
        wanted = set(devices(self._patterns)) if self._patterns else set(everything)
        self._write_facts(everything)
        believed, others = self._covered, set(everything) - wanted
        if self._is_due():
            believed = set()
        else:
            # the rest has had no programs when that was due, and nobody has attached any since
            others &= believed
        if wanted - believed:
            # what a new pod sends until its device is covered must be in need of no programs there
            self._bridged(())
        failures, changed = self._entries.attach(sorted(wanted - believed))
        self._note_repaired(self._covered.intersection(changed))
        self._entries.forget({device.ifindex for device in wanted}, sorted(others))
        self._covered = wanted - failures.keys()
        if self._options.fast_path:
            self._find_skipping(everything)
        self._look_for_bridges()
        present = set(devices()) if failures else set()
        self._note({each: why for each, why in failures.items() if each in present})
        return RETRY_S if self._failures or self._facts_failure else self._check_s

    def use(self, options: Options) -> None:
        """Take over the options as the Node makes them; called by the thread that knows it."""
        with self._facts_lock:
            changed = options != self._options or not self._knows_node
            self._options, self._knows_node = options, True
        if changed:
            for path in self._paths.values():
                path.write_options(options)
            self._write_facts(devices())

    def ask_from(self, addresses: Collection[Address]) -> None:
        """Tell the programs what the node asks these addresses from, now and as routes change.

        Called by the thread that knows them, before they count.
        """
        wanted = self._asked_before.union(addresses)
        if wanted != self._asked:
            self._asked = wanted
            self._write_facts(devices())

    def _write_facts(self, everything: list[Device]) -> None:
        """Say what devices and addresses the node has; what cannot be said is tried again."""
        before = self._facts_failure
        failures = [self._skipping_failure] if self._skipping_failure else []
        with self._facts_lock:
            for family, path in self._paths.items():
                try:
                    harmed = self._write_family(family, path, everything)
                except (KernelError, OSError) as error:
                    failures.append(str(error))
                    continue
                if harmed:
                    log.warning(
                        "%s: devices or addresses were changed in our maps: written again",
                        family.label,
                    )
        self._facts_failure = "; ".join(dict.fromkeys(failures))
        if self._facts_failure != before:
            log.error("devices and addresses: %s", self._facts_failure or "known again")
            self._changed()

    def _find_skipping(self, everything: list[Device]) -> None:
        """Find out by which devices packets may skip the stack: only where our programs are."""
        before = self._skipping, self._skipping_failure
        try:
            self._skipping, self._skipping_failure = skipping_devices(self._entries, everything), ""
        except OSError as error:
            self._skipping, self._skipping_failure = {}, f"fastPath: {error}"
        if before != (self._skipping, self._skipping_failure):
            self._write_facts(everything)

    def _write_family(self, family: Family, path: PacketPath, everything: list[Device]) -> bool:
        """Say it of one family, what most depends on first; return whether others changed it."""
        harmed = []
        if self._knows_node:
            local = local_prefixes(family, everything)
            found = node_addresses(local, self._options)
            harmed.append(path.write_addresses(found))
            harmed.append(path.write_networks(node_networks(local, self._options)))
            self._addresses[family] = frozenset(found)
        facts = device_facts(family, everything, self._options, self._skipping)
        harmed.append(path.write_devices(facts))
        path.write_fast_path(allowed() if self._options.fast_path else FastPath(0))
        addresses, hops = netlink.primary_addresses(family), netlink.hops(family)
        asked = [each for each in self._asked if len(each) == family.address_bytes]
        sources = hop_sources(addresses, hops) | own_sources(asked)
        harmed.append(path.write_hop_sources(sources))
        return any(harmed)

    def _look_for_bridges(self) -> None:
        covered = {device.ifindex for device in self._covered}
        try:
            self._bridged(bridged_families(covered, self._paths.keys()))
        except OSError as error:
            log.error("which pods share a bridge is not known: %s", error)  # noqa: TRY400 - as above
            self._bridged(())

    def _is_due(self) -> bool:
        """Return whether all devices are to be looked at, those that count as covered too."""
        now = self._clock()
        if now < self._check_at:
            return False
        self._check_at = now + self._check_s
        return True

    def _note_repaired(self, repaired: set[Device]) -> None:
        for device in sorted(repaired):
            log.warning("programs were gone from %s: attached again", device.name)

    def _note(self, failures: dict[Device, str]) -> None:
        with self._lock:
            before, self._failures = self._failures, failures
        for device, why in failures.items():
            if before.get(device) != why:
                log.error("no programs on %s: %s", device.name, why)
        if before != failures:
            self._changed()
