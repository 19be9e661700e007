# SPDX-License-Identifier: Apache-2.0
"""The periods of KubeProxyConfiguration: how often what is done, and which bounds they have."""

from __future__ import annotations

from pyproxy.kube.configwalk import Walk
from pyproxy.kube.durations import format_duration, parse_duration
from pyproxy.plan.options import Mode

SHORTEST_PERIOD_S = 1.0

# what 0 and nothing stand for (parity A19.2, A19.6)
SYNC_PERIOD_NS = 30_000_000_000
MIN_SYNC_PERIOD_NS = 1_000_000_000
CONFIG_SYNC_PERIOD_NS = 900_000_000_000

_IPVS = "ipvs"
_IPVS_TIMEOUTS = ("ipvs.tcpTimeout", "ipvs.tcpFinTimeout", "ipvs.udpTimeout")


def block_of(found: Walk) -> str:
    """Return the block whose periods count: the selected mode's (parity A19.9)."""
    return found.text("mode") or Mode.IPTABLES.value


def sync_period_s(found: Walk) -> float:
    """Return the syncPeriod in seconds, and note what is wrong with any period (A19.11).

    The shortest are too short for us.
    """
    block = block_of(found)
    _span(found, "configSyncPeriod", CONFIG_SYNC_PERIOD_NS)
    least_default = 0 if block == _IPVS else MIN_SYNC_PERIOD_NS
    least = _span(found, f"{block}.minSyncPeriod", least_default)
    period = _span(found, f"{block}.syncPeriod", SYNC_PERIOD_NS)
    if period < least:
        # by which one is given: the other may be a default
        field = "minSyncPeriod" if found.text(f"{block}.minSyncPeriod") else "syncPeriod"
        bounds = f"{format_duration(least)} is more than {format_duration(period)}"
        found.wrong(f"{block}.{field}", f"minSyncPeriod {bounds} of syncPeriod")
    for path in _IPVS_TIMEOUTS if block == _IPVS else ():
        _span(found, path, 0)
    return max(period / 1e9, SHORTEST_PERIOD_S)


def _span(found: Walk, path: str, default: int) -> int:
    """Return a duration in nanoseconds; 0 is what nothing is, and less is wrong."""
    span = found.parsed(path, parse_duration, 0)
    if span < 0:
        found.wrong(path, f"{found.text(path)!r} is less than 0s")
    return span if span > 0 else default
