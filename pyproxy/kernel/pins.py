# SPDX-License-Identifier: Apache-2.0
"""Where things are pinned below the bpffs root.

    <bpffs-root>/v2/<family>/maps/<map>
    <bpffs-root>/v2/<family>/programs-<digest>/<program>     -ahead: nobody runs them yet
    <bpffs-root>/v2/<family>/links/<link>
    <bpffs-root>/v2/shared/<map of both families>
    <bpffs-root>/v2/devices/<link>
    <bpffs-root>/connections-v1/<family>/<entries>/<map>

The version is that of the layouts in bpf/types.h: another layout never meets these maps. The
connection table has a version of its own, so that connections outlive a change of the others
(datapath rule 23).
"""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

from pyproxy.errors import KernelError
from pyproxy.model import Family

LAYOUT_VERSION = 2
CONNECTIONS_VERSION = 1

LAYOUT, CONNECTIONS = f"v{LAYOUT_VERSION}", f"connections-v{CONNECTIONS_VERSION}"
LAYOUTS = (LAYOUT, CONNECTIONS)  # the directories of these versions

_VERSION = re.compile(r"(connections-)?v[0-9]+")

# of both families: what connected sockets asked for, TCP's and UDP's
CONNECTED = ("connected", "connected_udp")
UNFINISHED = "-unfinished"
AHEAD = "-ahead"
REPLACED = "-replaced"
_USED = "used"  # a directory beside the maps of a connection table: no other file can be there


class Pins:
    """The pin directories of one family."""

    def __init__(self, root: Path, family: Family) -> None:
        self.root = root
        self.family = family
        self.base = root / LAYOUT / str(family.value)
        self.maps = self.base / "maps"
        self.links = self.base / "links"
        self.shared = root / LAYOUT / "shared"
        self.devices = root / LAYOUT / "devices"
        self._tables = root / CONNECTIONS / str(family.value)

    def programs(self, digest: str) -> Path:
        """Return the directory of the programs that were compiled from what digest says."""
        return self.base / f"programs-{digest}"

    def ahead(self, digest: str) -> Path:
        """Return the directory of the same programs where they are loaded before their time."""
        return self.base / f"programs-{digest}{AHEAD}"

    def use_ahead(self, digest: str) -> None:
        """Let programs that were loaded before their time be those that count, if there are any."""
        if self.ahead(digest).is_dir():
            put_away(self.programs(digest))
            self.ahead(digest).rename(self.programs(digest))

    def forget_ahead(self, digest: str) -> None:
        """Remove programs that were loaded before their time, and those of a loader that ended."""
        ahead = self.ahead(digest)
        for each in (ahead, ahead.with_name(ahead.name + UNFINISHED)):
            remove_tree(each)

    def program_directories(self) -> list[Path]:
        """Return the directories of programs of any digest, unfinished ones too, oldest first."""
        if not self.base.is_dir():
            return []
        found = [p for p in self.base.iterdir() if p.name.startswith("programs-")]
        return sorted(found, key=age)

    def connections(self, entries: int) -> Path:
        """Return the directory of the connection table with room for so many."""
        return self._tables / str(entries)

    def connection_tables(self) -> list[Path]:
        """Return the directories of connection tables of any size, oldest first."""
        return sorted(self._tables.iterdir(), key=age) if self._tables.is_dir() else []

    def mark_used(self, entries: int) -> None:
        """Note that programs with the connection table of this size are about to be attached."""
        make_directory(self.connections(entries) / _USED)

    def is_used(self, entries: int) -> bool:
        """Return whether the connection table of this size is the only one, and in use."""
        table = self.connections(entries)
        return self.connection_tables() == [table] and (table / _USED).is_dir()

    def set_aside(self, entries: int) -> None:
        """Let the connection table of this size be a former one, if a newer one was used.

        Its connections went on in that one: what is in here is not how they are now. Tables that
        were made and never used are removed.
        """
        for each in self.connection_tables():
            if not (each / _USED).is_dir() and each != self.connections(entries):
                remove_tree(each)
        table, tables = self.connections(entries), self.connection_tables()
        if table in tables[:-1]:
            table.rename(_free(table, "-former"))

    def make(self, entries: int) -> None:
        """Make the directories that do not exist yet, for a connection table of this size."""
        for directory in (
            self.maps, self.links, self.shared, self.devices, self.connections(entries)
        ):  # fmt: skip
            make_directory(directory)

    def exist(self) -> bool:
        """Return whether there is anything of this family's."""
        return self.maps.is_dir() and any(self.maps.iterdir())


def versions(root: Path) -> list[Path]:
    """Return where agents of any layout have left something below a bpffs root."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if _VERSION.fullmatch(p.name))


def other_layouts(root: Path) -> list[Path]:
    """Return where agents of other layouts have left something.

    Their programs run before ours, by maps that nobody writes any more.
    """
    return [version for version in versions(root) if version.name not in LAYOUTS]


def age(path: Path) -> int:
    """Return when something was made or changed, in ns; what is removed meanwhile counts as old."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _free(path: Path, suffix: str) -> Path:
    """Return a name beside a path that nothing has yet."""
    names = (path.with_name(f"{path.name}{suffix}-{n}") for n in itertools.count(1))
    return next(each for each in names if not each.exists())


def put_away(programs: Path) -> None:
    """Give another name to a directory of programs, which may be attached, if it is there.

    What they enter by tail calls is pinned in it, and ends with its pin.
    """
    if programs.exists():
        programs.rename(_free(programs, REPLACED))


def make_directory(path: Path) -> None:
    """Make a directory and its parents below a bpffs."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(
            f"cannot make {path}: {error.strerror}",
            "give --bpffs-root a directory on a mounted bpffs that root may write",
        ) from error


def remove_tree(path: Path) -> None:
    """Unpin everything below path; what is pinned ends with its last user."""
    if path.is_dir():
        shutil.rmtree(path)


def nearest_existing(path: Path) -> Path:
    """Return path or the first of its parents that exists."""
    while not path.exists():
        path = path.parent
    return path
