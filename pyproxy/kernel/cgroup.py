# SPDX-License-Identifier: Apache-2.0
"""Finding the cgroup2 whose sockets are translated."""

from __future__ import annotations

from pathlib import Path

from pyproxy.errors import ConfigError, KernelError

MOUNTINFO = Path("/proc/self/mountinfo")


def find_root(mountinfo: Path = MOUNTINFO) -> Path:
    """Return where the root of the cgroup2 hierarchy is mounted.

    Hybrid hosts mount it at /sys/fs/cgroup/unified. A mount whose root is not "/" shows only
    a container's part of the hierarchy and is no good (datapath rule 22).
    """
    with mountinfo.open(encoding="utf-8") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            fields = before.split()
            if after.split()[0] == "cgroup2" and fields[3] == "/":
                return Path(fields[4].encode().decode("unicode_escape"))
    raise KernelError(
        "no cgroup2 is mounted",
        "mount it with 'mount -t cgroup2 none /sys/fs/cgroup/unified' or give --cgroup-root",
    )


def check(path: Path, mountinfo: Path = MOUNTINFO) -> Path:
    """Return path if it is a directory of a cgroup2 hierarchy, else raise ConfigError."""
    if not path.is_dir():
        raise ConfigError(f"--cgroup-root {path} is no directory", "give one of a cgroup2 mount")
    if not (path / "cgroup.procs").exists() or not _is_cgroup2(path, mountinfo):
        raise ConfigError(f"--cgroup-root {path} is not on cgroup2", "give one of a cgroup2 mount")
    return path


def _is_cgroup2(path: Path, mountinfo: Path) -> bool:
    best, kind = "", ""
    resolved = str(path.resolve())
    with mountinfo.open(encoding="utf-8") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            mounted = before.split()[4]
            inside = resolved == mounted or resolved.startswith(mounted.rstrip("/") + "/")
            if inside and len(mounted) >= len(best):
                best, kind = mounted, after.split()[0]
    return kind == "cgroup2"


def cgroup_id(path: Path) -> int:
    """Return the kernel's id of a cgroup: the inode number of its directory."""
    return path.stat().st_ino
