# SPDX-License-Identifier: Apache-2.0
"""The cgroups that play the nodes' cgroup2 roots, with a child for the host and one per pod."""

from __future__ import annotations

from pathlib import Path

from tests.lab import netns
from tests.lab.waiting import wait_for


def mounted_root() -> Path | None:
    """Return where the whole cgroup2 hierarchy is mounted, None where it is not.

    A line of /proc/self/mountinfo is: id, parent, device, root, mount point, options, ...,
    "-", type, source, options (proc_pid_mountinfo(5)).
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[0] == "cgroup2" and fields[3] == "/":
            return Path(fields[4])
    return None


def mount_root(directory: Path) -> Path:
    """Mount cgroup2 on `directory` (a chroot may have none) and return it."""
    directory.mkdir()
    netns.mount("cgroup2", directory, "cgroup2")
    return directory


def tree(top: Path) -> list[Path]:
    """Return `top` and all cgroups below it, children first."""
    if not top.is_dir():
        return []
    below = [path for path in top.rglob("*") if path.is_dir()]
    return [*sorted(below, reverse=True), top]


def processes(top: Path) -> list[int]:
    """Return the ids of all processes in `top` and below."""
    files = (path / "cgroup.procs" for path in tree(top))
    return [int(line) for file in files for line in file.read_text().split()]


def kill(top: Path) -> None:
    """Kill every process in `top` and below and wait until the kernel has let go of them."""
    if not top.is_dir():
        return
    # cgroup.kill: Linux commit 661ee6280931 "cgroup: introduce cgroup.kill" (v5.14).
    (top / "cgroup.kill").write_text("1")
    wait_for(lambda: not processes(top), 10, f"the processes in {top} to end")


def remove(top: Path) -> None:
    """Kill what runs in `top` and below, and remove the cgroups."""
    kill(top)
    for path in tree(top):
        _rmdir(path)


def _rmdir(path: Path) -> None:
    # A cgroup stays busy for a moment after its last process was reaped.
    def gone() -> bool:
        try:
            path.rmdir()
        except OSError:
            return not path.exists()
        return True

    wait_for(gone, 5, f"{path} to be free")
