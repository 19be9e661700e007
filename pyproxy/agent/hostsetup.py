# SPDX-License-Identifier: Apache-2.0
"""What an agent sets on its host as kube-proxy does (parity A17.1, A17.2, A17.4).

Nothing that is served depends on it: what cannot be set is logged.
"""

from __future__ import annotations

import logging

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


def set_oom_score(score: int) -> None:
    """Ask the kernel to spare this process when memory is short."""
    try:
        host.set_oom_score(score)
    except (OSError, ValueError) as error:
        log.warning("oom_score_adj stays as it is, not %d: %s", score, error)
