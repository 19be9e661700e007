# SPDX-License-Identifier: Apache-2.0
"""`--manifests DIR`: objects from the files directly in a directory, followed by inotify.

A change takes effect as soon as its writer closes or renames the file: nothing is polled and
nothing is collected first. What cannot be used is reported, and the last good state stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from pyproxy.errors import SourceError
from pyproxy.kube.catalogue import Catalogue
from pyproxy.kube.dirwatch import DirectoryWatch, Hints, is_manifest
from pyproxy.kube.events import Event, Put, Report, Synced

# Bounds what one file may cost; 10,000 EndpointSlices of 10 endpoints take 20 MiB of YAML.
MAX_FILE_BYTES = 64 << 20

# A truncated file is empty for a moment before its watchers are told (do_truncate, fsnotify): a
# writer that is called away there for longer than this takes its objects away and brings them back.
TRUNCATED_S = 0.2

_KEPT = "what it held stays in force"
_NO_INOTIFY = {
    errno.EMFILE: "raise fs.inotify.max_user_instances (sysctl)",
    errno.ENOSPC: "raise fs.inotify.max_user_watches (sysctl)",
}


class ManifestSource:
    """A source of events (kube.events.Source) that reads the manifests of a directory.

    `put` is called from the source's own thread only.
    """

    def __init__(self, directory: Path, put: Put) -> None:
        self._directory = directory
        self._put = put
        self._catalogue = Catalogue(f"{directory}/")
        self._trouble = ""
        self._stop = threading.Event()
        self._wake = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read everything, put Synced, and follow changes, in a thread of its own.

        Raises SourceError where the directory cannot be read or watched.
        """
        watch = self._open_watch()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(
            target=self._run, args=(watch,), name="manifests", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a file that is being read is finished first."""
        if self._thread is None:
            return
        self._stop.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._thread = None

    def _open_watch(self) -> DirectoryWatch:
        try:
            watch = DirectoryWatch(self._directory)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            watch.open()
            self._manifest_names()
        except OSError as error:
            watch.close()
            raise self._unreadable(error) from error
        return watch

    def _unreadable(self, error: OSError) -> SourceError:
        remedy = _NO_INOTIFY.get(
            error.errno or 0, "give --manifests a directory that exists and may be read"
        )
        return SourceError(
            f"the manifests in {self._directory} cannot be read: {error.strerror}", remedy
        )

    def _run(self, watch: DirectoryWatch) -> None:
        with contextlib.closing(watch):
            self._follow(watch.hints(), watch)
            if not self._stop.is_set():
                self._put(Synced())
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            while not self._stop.is_set():
                watch.drain()
                self._follow(watch.hints(), watch)
                if not watch.has_hints:
                    poll.poll()

    def _follow(self, hints: Hints, watch: DirectoryWatch) -> None:
        """Do what the hints ask for; hints that arise meanwhile wait in the watch."""
        if hints.gone or (hints.scan and not watch.is_open):
            self._reopen(watch)
        elif hints.scan:
            self._scan(watch)
        else:
            self._refresh(hints.names, watch)

    def _reopen(self, watch: DirectoryWatch) -> None:
        """Watch the directory that is at the path now, or wait for one."""
        error = _failure_to_open(watch)
        if error and watch.wait_for_directory():
            error = _failure_to_open(watch)
        if error:
            self._report_directory(f"cannot be read: {error.strerror}; make it again ({_KEPT})")

    def _scan(self, watch: DirectoryWatch) -> None:
        """Look at every file, in the order of names: so duplicates settle once."""
        try:
            names = self._manifest_names()
        except OSError as error:
            self._report_directory(f"cannot be read: {error.strerror}; mend it ({_KEPT})")
            return
        self._report_directory("")
        self._refresh([*names, *sorted(self._catalogue.names.difference(names))], watch)

    def _manifest_names(self) -> list[str]:
        return sorted(filter(is_manifest, (path.name for path in self._directory.iterdir())))

    def _report_directory(self, message: str) -> None:
        if message != self._trouble:
            self._trouble = message
            self._put(Report(str(self._directory), message))

    def _refresh(self, names: Iterable[str], watch: DirectoryWatch) -> None:
        for name in names:
            if self._stop.is_set():
                return
            for event in self._read(name, watch):
                self._put(event)

    def _read(self, name: str, watch: DirectoryWatch) -> list[Event]:
        """Return what follows from the file's present state, none where it is being written."""
        path = self._directory / name
        try:
            text = read_file(path)
        except IsADirectoryError:
            return self._catalogue.remove(name)
        except OSError as error:
            if os.path.lexists(path):
                return self._catalogue.fail(name, f"cannot be read: {error.strerror}")
            # With its directory gone too, nobody has said that the file's objects shall go.
            return self._catalogue.remove(name) if self._directory.is_dir() else []
        if not text and name in self._catalogue.names:
            self._stop.wait(TRUNCATED_S)
        watch.drain()
        return [] if watch.has_changed(name) else self._catalogue.put(name, text)


def _failure_to_open(watch: DirectoryWatch) -> OSError | None:
    try:
        watch.open()
    except OSError as error:
        return error
    return None


def read_file(path: Path) -> bytes:
    """Return a regular file's bytes. Raises OSError, also for a file that is too big."""
    # A FIFO would block the open without O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - pathlib opens no descriptors
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        size = MAX_FILE_BYTES >> 20
        raise OSError(errno.EFBIG, f"it has more than {size} MiB: divide it into several files")
    return text
