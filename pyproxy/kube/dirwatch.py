# SPDX-License-Identifier: Apache-2.0
"""inotify on one directory, reduced to: which files to look at again, and when to scan it all.

Events are only hints; what is true is read from the directory. A file that somebody is writing
is left alone until it is closed, so a half-written one is never taken for the whole.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from inotify_simple import Event, INotify, flags, masks

_GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
_FINISHED = flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE
_CHANGED = _FINISHED | flags.CREATE | flags.MODIFY | flags.ATTRIB
_DIRECTORY_MASK = _CHANGED | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
_ANCESTOR_MASK = (
    masks.MOVE | flags.CREATE | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
)

# The link that Kubernetes swaps to publish a new version of a ConfigMap volume at once.
_DATA_LINK = "..data"

MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")


def is_manifest(name: str) -> bool:
    """Tell whether a file name is one that is read: no dot file, one of the three suffixes."""
    return name.endswith(MANIFEST_SUFFIXES) and not name.startswith(".")


class Hints(NamedTuple):
    """What to look at. `scan`: everything; `gone`: the directory is not there any more."""

    names: list[str]
    scan: bool
    gone: bool


class DirectoryWatch:
    """Watches a directory, and where it has vanished its nearest ancestor until it is back."""

    def __init__(self, directory: Path) -> None:
        """Raise OSError where the kernel gives no inotify instance."""
        self._directory = directory
        self._inotify = INotify(nonblocking=True)
        self._directory_wd = -1
        self._ancestor_wd = -1
        self._names: dict[str, None] = {}
        self._writing: set[str] = set()
        self._scan = False
        self._gone = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are events."""
        return int(self._inotify.fileno())

    @property
    def is_open(self) -> bool:
        """Tell whether the directory itself is watched."""
        return self._directory_wd != -1

    @property
    def has_hints(self) -> bool:
        """Tell whether hints() has something new to say."""
        return bool(self._names) or self._scan or self._gone

    def close(self) -> None:
        """Give everything back to the kernel."""
        self._inotify.close()

    def open(self) -> None:
        """Watch the directory from now on. Raises OSError where it is not there."""
        wd = self._inotify.add_watch(self._directory, _DIRECTORY_MASK)
        for former in {self._directory_wd, self._ancestor_wd} - {wd}:
            self._forget(former)
        self._directory_wd, self._ancestor_wd = wd, -1
        self._scan, self._gone = True, False

    def wait_for_directory(self) -> bool:
        """Watch the nearest ancestor that exists; True where the directory is back by now.

        The next hint to scan is the time to ask again.
        """
        self._forget(self._directory_wd)
        self._directory_wd = -1
        self._names.clear()
        self._writing.clear()
        watched = None
        # again while it is not the nearest any more: a directory that was made just before the
        # watch on its parent began is announced by nobody
        while (nearest := self._nearest_ancestor()) != watched:
            with contextlib.suppress(OSError):
                self._watch_ancestor(nearest)
            watched = nearest
        return self._directory.is_dir()

    def _nearest_ancestor(self) -> Path:
        parents = self._directory.absolute().parents
        return next(parent for parent in parents if parent.is_dir())

    def _watch_ancestor(self, ancestor: Path) -> None:
        wd = self._inotify.add_watch(ancestor, _ANCESTOR_MASK)
        if wd != self._ancestor_wd:
            self._forget(self._ancestor_wd)
        self._ancestor_wd = wd

    def has_changed(self, name: str) -> bool:
        """Tell whether what was read of a file before drain() may be neither the old nor the new.

        Somebody has changed it and not closed it since, or has, so that it is hinted at again.
        """
        return name in self._writing or name in self._names

    def drain(self) -> None:
        """Take in the events that have arrived; never waits."""
        for event in self._inotify.read(timeout=0):
            self._take(event)

    def hints(self) -> Hints:
        """Return, and forget, what the events so far ask for."""
        names = [name for name in self._names if name not in self._writing]
        found = Hints(names, self._scan, self._gone)
        self._names.clear()
        self._scan = self._gone = False
        return found

    def _take(self, event: Event) -> None:
        if event.mask & flags.Q_OVERFLOW:
            self._writing.clear()
            self._scan = True
        elif event.wd == self._ancestor_wd:
            self._scan = True
        elif event.wd != self._directory_wd:
            return
        elif event.mask & _GONE:
            self._gone = True
        elif event.name == _DATA_LINK:
            self._scan = True
        elif is_manifest(event.name):
            self._take_manifest(event.name, event.mask)

    def _take_manifest(self, name: str, mask: int) -> None:
        if mask & flags.MODIFY or (mask & flags.CREATE and self._is_new_and_empty(name)):
            self._writing.add(name)
            return
        if mask & _FINISHED:
            self._writing.discard(name)
        self._names[name] = None

    def _is_new_and_empty(self, name: str) -> bool:
        """Tell a file that its writer has just made from a link to a finished one."""
        try:
            found = os.lstat(self._directory / name)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == 0

    def _forget(self, wd: int) -> None:
        if wd != -1:
            with contextlib.suppress(OSError):  # the kernel may have dropped it already
                self._inotify.rm_watch(wd)
