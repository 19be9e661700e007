# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's metrics by name (parity A20), those of them that mean something here.

What iptables and nftables alone have is absent, as it is in kube-proxy's other modes.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.meters import Spec, Type

SYNC_BOUNDS = tuple(0.001 * 2**n for n in range(15))


def _programming_bounds() -> Iterator[float]:
    """Yield 0, which kube-proxy has by an oversight, quarters, and ever wider steps (A20.3)."""
    yield from (0.0, 0.25, 0.5)
    steps = ((1, 60, 1), (60, 120, 5), (120, 301, 30))
    for first, end, step in steps:
        yield from map(float, range(first, end, step))


PROGRAMMING_BOUNDS = tuple(_programming_bounds())

FAMILY = ("ip_family",)


def _of(kind: Type, name: str, words: str, *labels: str, bounds: tuple[float, ...] = ()) -> Spec:
    return Spec(f"kubeproxy_{name}", kind, words, labels, bounds)


def _duration(name: str, words: str) -> Spec:
    return _of(Type.HISTOGRAM, name, words, *FAMILY, bounds=SYNC_BOUNDS)


SYNC_DURATION = _duration(
    "sync_proxy_rules_duration_seconds",
    "How long it took to write what has changed to the maps, failures included.",
)
FULL_SYNC_DURATION = _duration(
    "sync_full_proxy_rules_duration_seconds",
    "The same of those that compared the maps whole: at start, and after a failure.",
)
PARTIAL_SYNC_DURATION = _duration(
    "sync_partial_proxy_rules_duration_seconds",
    "The same of those that wrote changed services alone.",
)
PROGRAMMING_DURATION = _of(
    Type.HISTOGRAM,
    "network_programming_duration_seconds",
    "From what made an EndpointSlice change until the maps had it, by its annotation.",
    *FAMILY,
    bounds=PROGRAMMING_BOUNDS,
)
LAST_SYNC = _of(
    Type.GAUGE,
    "sync_proxy_rules_last_timestamp_seconds",
    "When the maps were last known to be what they should be.",
    *FAMILY,
)
LAST_QUEUED = _of(
    Type.GAUGE,
    "sync_proxy_rules_last_queued_timestamp_seconds",
    "When something last came in that may change the maps.",
    *FAMILY,
)
ENDPOINTS_PENDING = _of(
    Type.GAUGE,
    "sync_proxy_rules_endpoint_changes_pending",
    "Changes of EndpointSlices that are not in the maps yet.",
)
ENDPOINTS_TOTAL = _of(
    Type.COUNTER,
    "sync_proxy_rules_endpoint_changes_total",
    "Changes of EndpointSlices.",
)
SERVICES_PENDING = _of(
    Type.GAUGE,
    "sync_proxy_rules_service_changes_pending",
    "Changes of Services that are not in the maps yet.",
)
SERVICES_TOTAL = _of(
    Type.COUNTER,
    "sync_proxy_rules_service_changes_total",
    "Changes of Services, once for each family of the node.",
)
NO_LOCAL_ENDPOINTS = _of(
    Type.GAUGE,
    "sync_proxy_rules_no_local_endpoints_total",
    "Service ports with a Local traffic policy that have endpoints, and none on this node.",
    "traffic_policy",
    *FAMILY,
)
HEALTHZ = _of(
    Type.COUNTER, "proxy_healthz_total", "Answers of /healthz on the health port.", "code"
)
LIVEZ = _of(Type.COUNTER, "proxy_livez_total", "Answers of /livez on the health port.", "code")
RECONCILER_DURATION = _duration(
    "conntrack_reconciler_sync_duration_seconds",
    "How long it took to find and end connected UDP sockets whose backend has left.",
)
RECONCILER_DELETED = _of(
    Type.COUNTER,
    "conntrack_reconciler_deleted_entries_total",
    "Connected UDP sockets that were ended because their backend has left.",
    *FAMILY,
)
