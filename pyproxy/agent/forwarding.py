# SPDX-License-Identifier: Apache-2.0
"""forwardAccept: netfilter's FORWARD lets through what is translated, as in iptables mode."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pyproxy.agent.problems import Problem, not_accepted
from pyproxy.errors import KernelError
from pyproxy.kernel import accepting
from pyproxy.kernel.forward import CHAIN
from pyproxy.model import Family

log = logging.getLogger(__name__)


class Forwarding:
    """Keeps our rules there while `mark` is one, and takes them out where it is 0."""

    def __init__(self, families: Iterable[Family], mark: int) -> None:
        self._families = tuple(families)
        self._mark = mark
        self._started: set[Family] = set()
        self._failures: dict[Family, str] = {}

    def keep(self) -> None:
        """Look after the rules of each family; what cannot be done is a problem, and tried again.

        The first time all is written, since a mark may be another one; that is no news.
        """
        for family in self._families:
            try:
                changed = self._write(family)
            except (KernelError, OSError) as error:
                self._fail(family, str(error))
                continue
            if changed and family in self._started:
                log.warning("%s: rules of %s were changed: written again", family.label, CHAIN)
            self._started.add(family)
            self._failures.pop(family, None)

    def problems(self) -> list[Problem]:
        """Return what could not be done and why."""
        return [not_accepted(each.label, why) for each, why in self._failures.items()]

    def _write(self, family: Family) -> bool:
        is_first = family not in self._started
        if self._mark:
            return accepting.accept(family, self._mark, again=is_first)
        return is_first and accepting.withdraw(family)

    def _fail(self, family: Family, why: str) -> None:
        if self._failures.get(family) != why:
            log.warning("%s: rules of %s: %s", family.label, CHAIN, why)
        self._failures[family] = why
