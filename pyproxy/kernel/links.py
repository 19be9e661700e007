# SPDX-License-Identifier: Apache-2.0
"""Pinned links: programs attached in a way that outlives the agent and is swapped in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Give a descriptor of the object pinned at path, for as long as the block runs."""
    fd = libbpf.obj_get(str(path))
    try:
        yield fd
    finally:
        os.close(fd)


def ensure(
    pin: Path,
    program: Path,
    target: int,
    target_id: int,
    attach_type: int,
    *,
    first: bool = False,
) -> bool:
    """Make the link pinned at `pin` run the program pinned at `program` on a target.

    `target` is what a link is created with (a cgroup's descriptor, an ifindex), `target_id`
    what the kernel then calls it (the cgroup's id, the ifindex). A link that runs another
    program is updated in place, one whose target is gone or another is made anew, before all
    other programs there if `first` says so. Returns whether anything was changed.
    """
    with opened(program) as wanted:
        wanted_id = libbpf.program_info(wanted).id
        if pin.exists():
            with opened(pin) as link:
                info = libbpf.link_info(link)
                if (info.target, info.attach_type) == (target_id, attach_type):
                    return _update(link, info, wanted, wanted_id)
            pin.unlink()
        link = libbpf.link_create(wanted, target, attach_type, first=first)
        try:
            libbpf.obj_pin(link, str(pin))
        finally:
            os.close(link)
    return True


def _update(link: int, info: libbpf.LinkInfo, wanted: int, wanted_id: int) -> bool:
    if info.program_id == wanted_id:
        return False
    libbpf.link_update(link, wanted)
    return True


def read(pin: Path) -> libbpf.LinkInfo | None:
    """Return what a pinned link does, None if there is none."""
    try:
        with opened(pin) as link:
            return libbpf.link_info(link)
    except KernelError:
        return None
