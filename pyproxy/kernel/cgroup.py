# SPDX-License-Identifier: Apache-2.0
"""Finding the cgroup2 whose sockets are translated."""

from __future__ import annotations

from pathlib import Path

from pyproxy.errors import ConfigError, KernelError
from pyproxy.kernel.mounts import MOUNTINFO, OWN_CGROUP, is_root_of_container, mounts

ROOT_INODE = 1  # of the hierarchy's own root; a container that plays a node has none of it


def find_root(mountinfo: Path = MOUNTINFO, own: Path = OWN_CGROUP) -> Path:
    """Return where the root of the cgroup2 hierarchy is mounted.

    Hybrid hosts mount it at /sys/fs/cgroup/unified. A container sees its own part of the
    hierarchy, which is no good (datapath rule 22), as if it were all; what is mounted of the
    node's shows by "/.." then. Of several the outermost is taken.
    """
    found = [each for each in mounts(mountinfo) if each.kind == "cgroup2" and each.depth <= 0]
    if not found:
        raise KernelError(
            "no cgroup2 is mounted",
            "mount it with 'mount -t cgroup2 none /sys/fs/cgroup/unified' or give --cgroup-root",
        )
    outermost = min(found, key=lambda each: each.depth)
    if outermost.depth == 0 and _is_ours_alone(outermost.point, own):
        raise KernelError(
            f"{outermost.point} is this container's part of the cgroup2 hierarchy, not the node's",
            "mount the node's /sys/fs/cgroup into the container (hostPath), anywhere",
        )
    return outermost.point


def _is_ours_alone(point: Path, own: Path) -> bool:
    try:
        return point.stat().st_ino != ROOT_INODE and is_root_of_container(own)
    except OSError:
        return False


def check(path: Path, mountinfo: Path = MOUNTINFO) -> Path:
    """Return path if it is a directory of a cgroup2 hierarchy, else raise ConfigError."""
    if not path.is_dir():
        raise ConfigError(f"--cgroup-root {path} is no directory", "give one of a cgroup2 mount")
    if not (path / "cgroup.procs").exists() or not _is_cgroup2(path, mountinfo):
        raise ConfigError(f"--cgroup-root {path} is not on cgroup2", "give one of a cgroup2 mount")
    return path


def _is_cgroup2(path: Path, mountinfo: Path) -> bool:
    resolved = path.resolve()
    found = [each for each in mounts(mountinfo) if resolved.is_relative_to(each.point)]
    # of two at one place the later one is on top; max() would give the first
    deepest = max((len(each.point.parts) for each in found), default=0)
    return [each.kind for each in found if len(each.point.parts) == deepest][-1:] == ["cgroup2"]


def cgroup_id(path: Path) -> int:
    """Return the kernel's id of a cgroup: the inode number of its directory."""
    return path.stat().st_ino
