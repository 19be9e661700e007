# SPDX-License-Identifier: Apache-2.0
"""The three ways a socket names an address, and the addresses of the tests.

Backends are 10.1.0.<n> and fd00:1::<n> (local in the namespace), services 10.96.0.<n> and
fd00:96::<n>: nothing routes there, so an untranslated connect() fails at once with ENETUNREACH.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
from typing import Any

from pyproxy.model import Family, Protocol

BACKENDS = range(1, 9)
PORT = 8080
OTHER_PORT = 8081
SERVICE_PORT = 80
PROTOCOLS = (Protocol.TCP, Protocol.UDP)

SockAddr = tuple[str, int]
KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


def backend_address(family: Family, number: int) -> bytes:
    """Return the address of a backend in network order."""
    text = f"10.1.0.{number}" if family is Family.IPV4 else f"fd00:1::{number:x}"
    return ipaddress.ip_address(text).packed


def service_address(family: Family, number: int) -> bytes:
    """Return the address of a service in network order."""
    text = f"10.96.0.{number}" if family is Family.IPV4 else f"fd00:96::{number:x}"
    return ipaddress.ip_address(text).packed


class Flavour(enum.Enum):
    """How a socket names addresses: the maps' family and the socket's domain."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    MAPPED = "mapped"  # an IPv6 socket with IPv4-mapped addresses (RFC 4291 2.5.5.2)

    @property
    def family(self) -> Family:
        """The family whose maps decide."""
        return Family.IPV6 if self is Flavour.IPV6 else Family.IPV4

    @property
    def domain(self) -> int:
        """The domain of its sockets."""
        return socket.AF_INET if self is Flavour.IPV4 else socket.AF_INET6

    def text(self, address: bytes) -> str:
        """Return an address as such a socket writes it."""
        prefix = "::ffff:" if self is Flavour.MAPPED else ""
        return prefix + str(ipaddress.ip_address(address))

    def service(self, number: int, port: int = SERVICE_PORT) -> SockAddr:
        """Return the socket address of a service."""
        return self.text(service_address(self.family, number)), port

    def backend(self, number: int, port: int = PORT) -> SockAddr:
        """Return the socket address of a backend."""
        return self.text(backend_address(self.family, number)), port


def named(address: Any) -> SockAddr:
    """Return what getpeername() or recvfrom() gave, without flow and scope."""
    return address[0], address[1]
