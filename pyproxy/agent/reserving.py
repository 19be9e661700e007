# SPDX-License-Identifier: Apache-2.0
"""Ports of services that sockets could get by themselves are reserved (datapath rule 3)."""

from __future__ import annotations

import logging
from pathlib import Path

from pyproxy.agent.problems import Problem, not_reserved
from pyproxy.kernel.reserved import ReservedPorts

log = logging.getLogger(__name__)


class Reserving:
    """Keeps net.ipv4.ip_local_reserved_ports equal to what is served."""

    def __init__(self, shared: Path) -> None:
        self._reserved = ReservedPorts(shared)
        self._failure = ""

    def keep(self, served: set[int]) -> None:
        """Reserve these ports and no others of ours; what cannot be done is a problem."""
        before = self._failure
        try:
            self._reserved.keep(served)
        except (OSError, ValueError) as error:
            self._failure = str(error)
        else:
            self._failure = ""
        if self._failure != before:
            log.warning("reserved ports: %s", self._failure or "written again")

    def problems(self) -> list[Problem]:
        """Return what could not be done and why."""
        return [not_reserved(self._failure)] if self._failure else []
