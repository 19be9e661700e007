# SPDX-License-Identifier: Apache-2.0
"""Which ports of this network namespace are whose: by sysctl, by NodePorts, and as source ports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pyproxy.kernel.host import writable
from pyproxy.tables import PortRange

# of the reader's namespace; both families have the same
LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
RESERVED_PORTS = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
NODE_PORTS = (30_000, 32_767)  # kube-apiserver's --service-node-port-range
FIRST_PORT = 1_024
FEWEST_PORTS = 4_096
# the longest list: every other port, six characters each
MOST_CHARACTERS = 6 * 65_536 // 2


def source_ports(local: tuple[int, int]) -> PortRange:
    """Return the longest run of ports that neither sockets get by themselves nor NodePorts have.

    `local` is net.ipv4.ip_local_port_range. A source port from it could be a socket's of the
    node that talks to the same backend (datapath rule 9). Where it leaves too few, that is
    the lesser evil: all below the NodePorts are used.
    """
    taken = sorted((local, NODE_PORTS))
    runs, start = [], FIRST_PORT
    for first, last in taken:
        runs.append(PortRange(start, max(first - start, 0)))
        start = max(start, last + 1)
    runs.append(PortRange(start, 65_536 - start))
    longest = max(runs, key=lambda run: run.many)
    if longest.many < FEWEST_PORTS:
        return PortRange(FIRST_PORT, NODE_PORTS[0] - FIRST_PORT)
    return longest


def local_port_range() -> tuple[int, int]:
    """Return net.ipv4.ip_local_port_range of this network namespace."""
    first, last = LOCAL_PORT_RANGE.read_text("ascii").split()
    return int(first), int(last)


def reserved_ports() -> set[int]:
    """Return net.ipv4.ip_local_reserved_ports: no socket gets those by itself."""
    # the kernel gives what fits into the first read, and no more to those that follow
    # (proc_do_large_bitmap): read_text() asks for 8 KB
    with RESERVED_PORTS.open("rb", buffering=0) as file:
        return parse_ports((file.read(MOST_CHARACTERS) or b"").decode("ascii"))


def reserve_ports(ports: Iterable[int]) -> None:
    """Write net.ipv4.ip_local_reserved_ports. Raises OSError."""
    writable(RESERVED_PORTS).write_text(f"{format_ports(ports)}\n", "ascii")


def parse_ports(text: str) -> set[int]:
    """Return the ports of a list such as "8080,9000-9010", as the kernel writes it."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def format_ports(ports: Iterable[int]) -> str:
    """Return ports as a list of ranges."""
    runs: list[list[int]] = []
    for port in sorted(set(ports)):
        if runs and runs[-1][1] == port - 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
