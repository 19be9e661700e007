# SPDX-License-Identifier: Apache-2.0
"""A new connection, and what can be decided about it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyproxy.model import Address
from pyproxy.tables import Backend


class Verdict(enum.Enum):
    """What happens to a connection.

    REJECT answers (port unreachable, ECONNREFUSED), DROP is silent, PASS leaves it alone,
    ACCEPT lets it in to the node whatever the policy of a firewall.
    """

    FORWARD = "FORWARD"
    REJECT = "REJECT"
    DROP = "DROP"
    PASS = "PASS"  # noqa: S105 - a verdict, no password
    ACCEPT = "ACCEPT"


class Connection(NamedTuple):
    """The first packet of a connection, as it arrives or leaves its socket.

    Addresses in network order, `port` (the destination's) in host order, `protocol` as in the
    IP header. `in_interface` is "" where the packet comes from the node itself.
    """

    source: Address
    destination: Address
    port: int
    protocol: int
    in_interface: str = ""


class Decision(NamedTuple):
    """A verdict; with FORWARD, the backends that are equally likely.

    `masquerade` says that the source becomes a node address whichever backend is chosen;
    for a backend in `hairpins` it does in any case (parity A9.9).
    """

    verdict: Verdict
    backends: tuple[Backend, ...] = ()
    masquerade: bool = False
    hairpins: tuple[Backend, ...] = ()

    def masquerades(self, backend: Backend) -> bool:
        """Whether the source is rewritten when this backend is chosen."""
        return self.masquerade or backend in self.hairpins
