# SPDX-License-Identifier: Apache-2.0
"""What an agent sets on its host as kube-proxy does (parity A17.1, A17.2, A17.4).

Nothing that is served depends on it: what cannot be set is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyproxy.kernel import host
from pyproxy.tables import Conntrack

log = logging.getLogger(__name__)


def set_conntrack(settings: Conntrack) -> None:
    """Size the kernel's connection tracking, which others on this node use."""
    try:
        for line in host.set_conntrack(settings):
            log.info("set %s", line)
    except* (OSError, ValueError) as error:
        log.warning(
            "the kernel's connection tracking stays as it is (%s): write these yourself, let the"
            " agent write /proc/sys and /sys, or set conntrack.maxPerCore and its timeouts to 0",
            error.message,
        )


class LateTracking:
    """Sizes the kernel's connection tracking where that comes only when the agent runs.

    kube-proxy's own rules have the kernel load it; here it is a CNI's, or a firewall's. `settings`
    gives those in force.
    """

    def __init__(self, settings: Callable[[], Conntrack]) -> None:
        self._settings = settings
        self._is_due = not host.tracks_connections()

    def look(self) -> None:
        """Set what there is to set, once: what others have changed since stays."""
        if self._is_due and host.tracks_connections():
            self._is_due = False
            set_conntrack(self._settings())


def set_oom_score(score: int) -> None:
    """Ask the kernel to spare this process when memory is short."""
    try:
        host.set_oom_score(score)
    except (OSError, ValueError) as error:
        log.warning("oom_score_adj stays as it is, not %d: %s", score, error)
