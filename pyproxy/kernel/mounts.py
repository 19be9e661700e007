# SPDX-License-Identifier: Apache-2.0
"""What is mounted where, and whether it is the node's or only a container's (datapath rule 22)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
OWN_CGROUP = Path("/proc/self/cgroup")
PID_NAMESPACE = Path("/proc/self/ns/pid")
FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
NODES_BPFFS = (
    "mount the node's own into it: hostPath /sys/fs/bpf with mountPropagation HostToContainer "
    "(docker: -v /sys/fs/bpf:/sys/fs/bpf:rslave)"
)


class Mount(NamedTuple):
    """A line of mountinfo(5): the device's numbers, what of it is mounted, where, as what.

    `tags` are those of shared subtrees, such as shared:7 and master:7.
    """

    device: str
    root: str
    point: Path
    tags: tuple[str, ...]
    kind: str

    @property
    def depth(self) -> int:
        """How far below the root of the reader's cgroup namespace the mount's root is.

        It is negative above: a namespace shows what is outside of it by "/..".
        """
        parts = [part for part in self.root.split("/") if part]
        return sum(-1 if part == ".." else 1 for part in parts)


def mounts(mountinfo: Path = MOUNTINFO) -> Iterator[Mount]:
    """Give all mounts of this mount namespace, the later ones over the earlier ones."""
    with mountinfo.open(encoding="utf-8") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fields = before.split()
            point = Path(fields[4].encode().decode("unicode_escape"))
            yield Mount(fields[2], fields[3], point, tuple(fields[6:]), after.split()[0])


def nearest_existing(path: Path) -> Path:
    """Return path or the first of its parents that exists."""
    while not path.exists():
        path = path.parent
    return path


def bpffs_of(path: Path, mountinfo: Path = MOUNTINFO) -> Mount | None:
    """Return the bpffs that path (or its first parent that exists) lies on, None if on none."""
    wanted = nearest_existing(path).stat().st_dev
    device = f"{os.major(wanted)}:{os.minor(wanted)}"
    found = [each for each in mounts(mountinfo) if each.device == device]
    return found[-1] if found and found[-1].kind == "bpf" else None


def is_contained(namespace: Path = PID_NAMESPACE) -> bool:
    """Return whether this process is in a container, whose mounts may end with it."""
    return str(namespace.readlink()) != FIRST_PID_NAMESPACE


def outlives_us(mount: Mount, namespace: Path = PID_NAMESPACE) -> bool:
    """Return whether a mount is known to be the node's own, too.

    In a container that is one that mounts of the node propagate to. What was mounted in there
    alone ends with it, pins, links and all.
    """
    shared = any(tag.startswith(("shared:", "master:")) for tag in mount.tags)
    return shared or not is_contained(namespace)


def is_root_of_container(own: Path = OWN_CGROUP) -> bool:
    """Return whether this process is where its cgroup namespace begins, as a container's is."""
    return "0::/" in own.read_text(encoding="utf-8").splitlines()
