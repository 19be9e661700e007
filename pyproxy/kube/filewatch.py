# SPDX-License-Identifier: Apache-2.0
"""Tells that a file has other contents than before, however they came there.

A ConfigMap's volume replaces the link `..data`, editors rename, others write in place: so the
directories of a file, of what it links to and of the links between are watched, and what
was read is compared. What inotify tells nobody is seen within LOOK_S.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from inotify_simple import INotify, flags

from pyproxy.kube.manifests import read_file

log = logging.getLogger(__name__)

LOOK_S = 30.0
SETTLE_S = 0.1  # who replaces a file by two steps has done both
_LINKS = 40  # as the kernel has it (MAXSYMLINKS)
_MASK = (
    flags.CLOSE_WRITE
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
                now = [_contents(file) for file in self._files]
                if now != before:
                    before = now
                    self._changed()
                if poll.poll(self._look_s * 1000):
                    self._stop.wait(SETTLE_S)
                if notify:
                    notify.read(timeout=0)

    def _watch(self, notify: INotify | None) -> None:
        """Watch what directories lead to the files now; one that is watched stays so."""
        if notify is None:
            return
        for directory in {each for file in self._files for each in _directories(file)}:
            with contextlib.suppress(OSError):
                notify.add_watch(directory, _MASK)


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


def _contents(file: Path) -> bytes | None:
    try:
        return read_file(file)
    except OSError:
        return None
