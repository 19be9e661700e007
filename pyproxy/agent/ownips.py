# SPDX-License-Identifier: Apache-2.0
"""Says which ClusterIPs the node has itself: those are left to who answers there (rule 21)."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping

from pyproxy.agent.cover import Cover
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.model import Address, Family

log = logging.getLogger(__name__)


class OwnClusterIPs:
    """Notices such addresses, and logs each once when it comes and when it goes."""

    def __init__(self, datapaths: Mapping[Family, KernelDatapath], cover: Cover) -> None:
        self._datapaths = datapaths
        self._cover = cover
        self._known: set[Address] = set()

    def look(self) -> None:
        """Log what has changed since the last time."""
        found = {
            address
            for family, datapath in self._datapaths.items()
            for address in self._cover.addresses(family)
            if datapath.is_cluster_ip(address)
        }
        for address in sorted(found - self._known):
            log.warning(
                "the ClusterIP %s is an address of this node (a DNS cache?): what is sent there "
                "is left to it and goes to no endpoint",
                ipaddress.ip_address(address),
            )
        for address in sorted(self._known - found):
            log.info("%s is no ClusterIP of this node any more", ipaddress.ip_address(address))
        self._known = found
