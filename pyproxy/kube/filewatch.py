# SPDX-License-Identifier: Apache-2.0
"""Tells that a file has other contents than before, however they came there.

A ConfigMap's volume replaces the link `..data`, editors rename, others write in place: so the
directories of a file, of what it links to and of the links between are watched, and what
was read is compared. A file that somebody is writing is left alone until it is closed: half of one
may be valid. What inotify tells nobody is seen within LOOK_S.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from inotify_simple import Event, INotify, flags

from pyproxy.kube.manifests import read_file

log = logging.getLogger(__name__)

LOOK_S = 30.0
SETTLE_S = 0.1  # who replaces a file by two steps has done both
_LINKS = 40  # as the kernel has it (MAXSYMLINKS)
_MASK = (
    flags.MODIFY
    | flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.DELETE
    | flags.CREATE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)


class FileWatch:
    """Calls `changed` in a thread of its own: once at the start, and after each change of a file.

    A file that is not there or cannot be read is as good as any other contents.
    """

    def __init__(
        self, files: Sequence[Path], changed: Callable[[], None], look_s: float = LOOK_S
    ) -> None:
        self._files = tuple(files)
        self._changed = changed
        self._look_s = look_s
        self._stop = threading.Event()
        self._wake = -1
        self._thread: threading.Thread | None = None
        # what a watch of inotify is of; and which files somebody is writing
        self._directories: dict[int, Path] = {}
        self._writing: set[Path] = set()

    def start(self) -> None:
        """Begin; where the kernel gives no inotify, files are looked at now and then."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="configuration", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is None:
            return
        self._stop.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._thread = None

    def _run(self) -> None:
        with contextlib.ExitStack() as opened:
            notify = _inotify()
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if notify:
                opened.enter_context(contextlib.closing(notify))
                poll.register(notify, select.POLLIN)
            before: list[bytes | None] | None = None
            while not self._stop.is_set():
                self._watch(notify)
                now = before if self._writing else [_contents(file) for file in self._files]
                if now != before:
                    before = now
                    self._changed()
                if poll.poll(self._look_s * 1000):
                    self._stop.wait(SETTLE_S)
                else:
                    self._writing.clear()
                for event in notify.read(timeout=0) if notify else ():
                    self._take(event)

    def _watch(self, notify: INotify | None) -> None:
        """Watch what directories lead to the files now; one that is watched stays so."""
        if notify is None:
            return
        for directory in {each for file in self._files for each in _directories(file)}:
            with contextlib.suppress(OSError):
                self._directories[notify.add_watch(directory, _MASK)] = _real(directory)

    def _take(self, event: Event) -> None:
        """Note who begins to write a file of ours, and who has done."""
        file = self._directories.get(event.wd, Path()) / event.name
        if event.mask & flags.Q_OVERFLOW:
            self._writing.clear()
        elif event.mask & flags.MODIFY or (event.mask & flags.CREATE and _is_empty(file)):
            self._writing |= {file} & set(map(_real, self._files))
        else:
            self._writing.discard(file)


def _inotify() -> INotify | None:
    try:
        return INotify(nonblocking=True)
    except OSError as error:
        log.warning(
            "changed configuration is seen after %g s at most, since there is no inotify: %s",
            LOOK_S,
            error.strerror,
        )
        return None


def _directories(file: Path) -> Iterator[Path]:
    """Yield where a change may give a path other contents: along all links on its way."""
    paths = [file.absolute()]
    for _ in range(_LINKS):
        path = paths[-1]
        yield path.parent
        link = next((p for p in (path, *path.parents) if p.is_symlink()), None)
        if link is None:
            return
        if link != path:
            yield link.parent
        rest = path.relative_to(link)
        paths.append(Path(os.path.normpath(link.parent / link.readlink() / rest)))


def _real(path: Path) -> Path:
    """Return a path without links; unlike resolve() it takes links that lead in circles."""
    return Path(os.path.realpath(path))


def _is_empty(file: Path) -> bool:
    """Tell a file that its writer has just made from a link to a finished one."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _contents(file: Path) -> bytes | None:
    try:
        return read_file(file)
    except OSError:
        return None
