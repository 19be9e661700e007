# SPDX-License-Identifier: Apache-2.0
"""From wanted plans to the kernel, one family at a time.

The syncer writes only differences, in the order that work.py gives. What does not fit is
refused by name and keeps what it had; after a failed write the kernel is read back and
compared again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pyproxy.model import ServicePortName
from pyproxy.sync.api import Datapath
from pyproxy.sync.audit import audit, maps_of
from pyproxy.sync.books import Books, adopt
from pyproxy.sync.place import is_led_to, place, remove
from pyproxy.sync.state import State, state_of
from pyproxy.sync.work import Work
from pyproxy.tables import Frontend, PortPlan


def nothing(_: ServicePortName) -> bool:
    """Say that no service port may be missing: the sources show all there are."""
    return False


class Syncer:
    """Keeps the maps of one family equal to the wanted plans.

    `serves` says which frontends the datapath can serve; service ports without any are left
    out. `refused` has the service ports that do not fit, each with the reason; `kept` those
    that were adopted from the kernel and are not wanted, but may only be unreadable now.
    `was_full`: the last apply() compared all there is.
    """

    def __init__(self, datapath: Datapath, serves: Callable[[PortPlan, Frontend], bool]) -> None:
        self._datapath = datapath
        self._serves = serves
        self._wanted: dict[ServicePortName, State] = {}
        self._gone: set[ServicePortName] = set()  # since the last round that was written
        self._stale = True  # the books may differ from the kernel
        self._room_was_made = False
        self.was_full = False
        self.kept: set[ServicePortName] = set()
        self.books = Books(datapath.room, datapath.generation)
        self.refused: dict[ServicePortName, str] = {}

    def apply(
        self,
        plans: Mapping[ServicePortName, PortPlan | None],
        may_lack: Callable[[ServicePortName], bool] = nothing,
    ) -> int:
        """Take over changed plans (None: gone); write what differs; return how many entries.

        What an earlier agent programmed and nobody wants is kept if `may_lack` says that the
        sources may only not show it now; what somebody wanted once never is.
        Raises KernelError when a write failed; the next call reads the kernel back first.
        """
        for name, plan in plans.items():
            state = state_of(plan, self._serves)
            if state is None:
                self._gone.add(name)
                self._wanted.pop(name, None)
            else:
                self._wanted[name] = state
        # not by `kept - wanted.keys()`, here and below: that may look at every service there is
        self.kept = {name for name in self.kept if name not in self._wanted}
        self.was_full = self._stale or not all(map(may_lack, self.kept))
        if self.was_full:
            return self._apply_all(may_lack)
        names = set(plans)
        if self.can_retry:
            names |= self.refused.keys()
        return self._write(names, Work())

    def audit(self) -> Iterator[dict[str, int]]:
        """Compare the kernel with what was written, in steps of a few ms, and mend it.

        Yields after each step how many entries of which map were not as they were. Between steps
        everything else may be called; a look that this makes useless ends. Raises KernelError when
        a write failed, as apply() does.
        """
        books = self.books
        steps = audit(books, self._datapath)
        while not self._stale and books is self.books:
            self._stale = True
            work = next(steps, None)
            if work is not None:
                work.write(self._datapath)
                books.close_round(work)
            self._stale = False
            if work is None:
                break
            yield maps_of(work)
        marks = 0 if self._stale else self._datapath.mend_marks()
        yield {"marks": marks} if marks else {}

    def reclaim(self) -> None:
        """Free the slots and ids that were replaced, once no program can be reading them."""
        if self.has_limbo:
            self._datapath.wait_for_readers()
            self.books.free_limbo()
            self._room_was_made = True

    @property
    def has_limbo(self) -> bool:
        """Whether reclaim() has something to do."""
        return bool(self.books.limbo_runs or self.books.limbo_ids)

    @property
    def can_retry(self) -> bool:
        """Whether room was made since service ports were refused."""
        return self._room_was_made and bool(self.refused)

    def _apply_all(self, may_lack: Callable[[ServicePortName], bool]) -> int:
        # slots that a former round replaced count as free from here on
        self._datapath.wait_for_readers()
        self.books, leftovers = self._adopt()
        self.refused = {}
        # first, or rounds that fail again and again would fill the maps with what they began
        leftovers.write(self._datapath)
        self.books.close_round(leftovers)
        unwanted = self.books.programmed.keys() - self._wanted.keys() - self._gone
        self.kept = {name for name in unwanted if may_lack(name)}
        names = set(self._wanted) | set(self.books.programmed) - self.kept
        return leftovers.count + self._write(names, Work())

    def _adopt(self) -> tuple[Books, Work]:
        datapath = self._datapath
        return adopt(datapath.read(), datapath.room, datapath.generation)

    def _write(self, names: set[ServicePortName], work: Work) -> int:
        # what comes first: a frontend that moves from one service to another never is missing
        for name in sorted((name for name in names if name in self._wanted), key=self._age):
            self._place(name, work)
        for name in names:
            if name in self._wanted:
                continue
            self.refused.pop(name, None)
            if name in self.books.programmed:
                remove(self.books, work, name)
        self._room_was_made = bool(work.gone_frontends or work.gone_members)
        if work.count:
            self._stale = True
            work.write(self._datapath)
        self._stale = False
        self._gone.clear()
        self.books.close_round(work)
        return work.count

    def _age(self, name: ServicePortName) -> tuple[str, ServicePortName]:
        return (self._wanted[name].created or "~", name)

    def _place(self, name: ServicePortName, work: Work) -> None:
        state = self._wanted[name]
        entry = self.books.programmed.get(name)
        reason = ""
        if entry and entry.state == state and is_led_to(self.books, entry):
            # what was adopted is not kept beside its equal
            self.books.programmed[name] = entry._replace(state=state)
        else:
            reason = place(self.books, work, name, state)
            if reason and self.has_limbo:
                self.reclaim()
                reason = place(self.books, work, name, state)
        if reason:
            self.refused[name] = reason
        else:
            self.refused.pop(name, None)
