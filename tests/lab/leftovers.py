# SPDX-License-Identifier: Apache-2.0
"""What clusters leave on the machine: nothing, and this is where it is looked for.

All traces of a cluster carry its name, `pyproxy-lab-<process id>-<random>`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.lab import cgroups, netns

PREFIX = "pyproxy-lab-"


def _owner(name: str) -> int:
    """Return the process id in a cluster's name, 0 where the name has none."""
    number = name.removeprefix(PREFIX).split("-")[0]
    return int(number) if number.isdigit() else 0


def _alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def _mounts_under(directory: Path) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in lines]
    return [point for point in points if point.is_relative_to(directory)]


def sweep() -> None:
    """Remove what clusters of dead processes left (killed before they could clean up).

    Found by their directories, so that clusters of another root or mount namespace, whose
    process ids mean nothing here, are never touched.
    """
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = _owner(directory.name)
        if owner and not _alive(owner):
            _remove(directory)


def _remove(directory: Path) -> None:
    own = directory / "cgroup2"
    root = own if os.path.ismount(own) else cgroups.mounted_root()
    if root is not None:
        cgroups.remove(root / directory.name)
    for point in _mounts_under(directory):
        netns.unmount(point)
    shutil.rmtree(directory)


def _processes(name: str) -> list[str]:
    entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [f"process {entry.name}" for entry in entries if _mentions(entry, name)]


def _mentions(process: Path, name: str) -> bool:
    try:
        return name.encode() in (process / "cmdline").read_bytes()
    except OSError:
        # It ended meanwhile.
        return False


def traces(name: str) -> list[str]:
    """Return what is left of the cluster `name`, in words; an empty list is the aim.

    Pins and namespaces need no look of their own: both are mounts in the directory.
    """
    directory = Path(tempfile.gettempdir(), name)
    root = cgroups.mounted_root()
    found = [f"mount {point}" for point in _mounts_under(directory)]
    found += [f"directory {directory}"] if directory.exists() else []
    found += [f"cgroup {path}" for path in cgroups.tree(root / name)] if root else []
    return found + _processes(name)
