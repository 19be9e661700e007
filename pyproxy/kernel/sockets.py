# SPDX-License-Identifier: Apache-2.0
"""Attaching the sockets path to a cgroup."""

from __future__ import annotations

import os
from pathlib import Path

from pyproxy.kernel import links
from pyproxy.kernel.cgroup import cgroup_id
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.programs import Program, socket_programs

# what forgets comes before what remembers, and names are put right before addresses are
# changed: a connection made in between shows the backend's name, never the reverse
_ORDER = ("sock_release", "post_bind", "recvmsg", "getpeername", "sendmsg", "connect")


def attach(pins: Pins, digest: str, cgroup: Path) -> int:
    """Attach all socket programs of a family to a cgroup; return how many links changed."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        target = cgroup_id(cgroup)
        return sum(
            links.ensure(
                pins.links / program.name,
                pins.programs(digest) / program.name,
                fd,
                target,
                program.attach_type,
            )
            for program in sorted(socket_programs(pins.family), key=_place)
        )
    finally:
        os.close(fd)


def are_attached(pins: Pins) -> bool:
    """Return whether a family's socket programs are attached, whoever may have removed a pin."""
    found = (links.read(pins.links / each.name) for each in socket_programs(pins.family))
    return all(link is not None and link.target for link in found)


def _place(program: Program) -> int:
    return _ORDER.index(program.name.removesuffix("_mapped"))
