# SPDX-License-Identifier: Apache-2.0
"""Compiled objects are kept in files, so that a node that boots again needs no compiler.

What is in such a file runs in the kernel: one that somebody else could have written is not read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pyproxy.kernel.bytecode import Bytecode
from pyproxy.kernel.pins import age

SUFFIX = ".bytecode"
MOST = 32  # of a MB each: both families and four former tables, for three versions


class Kept:
    """The compiled objects in a directory, by what they were compiled from (Build.key)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, key: str) -> Bytecode | None:
        """Return what was kept under a key, None if nothing was or it cannot be trusted."""
        try:
            with self._file(key).open("rb") as file:
                if not _is_ours(file.fileno()):
                    return None
                found = Bytecode.from_bytes(file.read(), key)
        except OSError:
            return None
        # the last ones used stay; where it is part of an image it cannot be written
        with contextlib.suppress(OSError):
            os.utime(self._file(key))
        return found

    def write(self, key: str, code: Bytecode) -> str:
        """Keep an object; return why it could not be kept ("": it is)."""
        new = self._file(f"{key}.{os.getpid()}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.write_bytes(code.to_bytes(key))
            new.chmod(0o600)
            new.replace(self._file(key))
            self._forget_oldest()
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            return f"{error.filename or self._directory}: {error.strerror}"
        return ""

    def forget(self) -> None:
        """Remove all objects, and the directory if nothing else is in it."""
        for file in self._files():
            file.unlink(missing_ok=True)
        try:
            self._directory.rmdir()
        except OSError:
            # never made, or somebody else's files are in it
            return

    def _file(self, key: str) -> Path:
        return self._directory / f"{key}{SUFFIX}"

    def _files(self) -> list[Path]:
        return list(self._directory.glob(f"*{SUFFIX}"))

    def _forget_oldest(self) -> None:
        for file in sorted(self._files(), key=age)[:-MOST]:
            file.unlink(missing_ok=True)


def _is_ours(fd: int) -> bool:
    found = os.fstat(fd)
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
