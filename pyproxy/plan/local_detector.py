# SPDX-License-Identifier: Apache-2.0
"""Is the client a pod of the cluster? (parity A9.14; kube-proxy's localdetector)."""

from __future__ import annotations

from pyproxy.model import Family, family_of
from pyproxy.plan.cidr import contains
from pyproxy.plan.connection import Connection
from pyproxy.plan.options import DetectLocalMode, Options


def has_detector(family: Family, options: Options) -> bool:
    """Whether traffic of pods can be told from other traffic in a family (parity A9.14)."""
    if detects_by_interface(options):
        return bool(options.local_interface)
    return any(family_of(cidr.address) is family for cidr in options.local_cidrs)


def is_pod(connection: Connection, options: Options) -> bool:
    """Whether a connection is recognised as one of this node's or cluster's pods (A9.14).

    Of several CIDRs of a family the first counts, as in kube-proxy.
    """
    if detects_by_interface(options):
        return is_pod_interface(connection.in_interface, options)
    family = family_of(connection.source)
    cidrs = (cidr for cidr in options.local_cidrs if family_of(cidr.address) is family)
    first = next(cidrs, None)
    return first is not None and contains(first, connection.source)


def detects_by_interface(options: Options) -> bool:
    """Whether pods are recognised by the device that their packets come by."""
    by_interface = (DetectLocalMode.BRIDGE_INTERFACE, DetectLocalMode.INTERFACE_NAME_PREFIX)
    return options.detect_local_mode in by_interface


def is_pod_interface(name: str, options: Options) -> bool:
    """Whether packets from an interface come from pods; the node's own have none."""
    if not name or not options.local_interface:
        return False
    if options.detect_local_mode is DetectLocalMode.BRIDGE_INTERFACE:
        return name == options.local_interface
    return name.startswith(options.local_interface)
