# SPDX-License-Identifier: Apache-2.0
"""Compiled objects in files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyproxy.kernel.bytecode import Bytecode, Code, MapShape
from pyproxy.kernel.kept import MOST, SUFFIX, Kept

KEY = "0123456789abcdef"
MADE = Bytecode(
    {"connect": Code(b"instruct", ((0, "frontends"),))},
    {"frontends": MapShape(1, 8, 4, 16, 1, 2, 3)},
    b"types",
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where nothing is yet."""
    return tmp_path / "var" / "cache"


def test_what_was_written_is_read(directory: Path) -> None:
    """By the key it was written under, and by no other."""
    kept = Kept(directory)
    assert kept.read(KEY) is None
    assert kept.write(KEY, MADE) == ""
    assert kept.read(KEY) == MADE
    assert kept.read(KEY[::-1]) is None


def test_nobody_else_may_write(directory: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        Kept(directory).write(KEY, MADE)
    finally:
        os.umask(before)
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_may_write_is_not_read(directory: Path, mode: int) -> None:
    """It runs in the kernel."""
    kept = Kept(directory)
    kept.write(KEY, MADE)
    (directory / f"{KEY}{SUFFIX}").chmod(mode)
    assert kept.read(KEY) is None


def test_what_another_user_has_written_is_not_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody else may write it."""
    kept = Kept(directory)
    kept.write(KEY, MADE)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert kept.read(KEY) is None


def test_those_used_last_stay(directory: Path) -> None:
    """Reading is using."""
    kept = Kept(directory)
    for number in range(MOST):
        kept.write(f"{number:016x}", MADE)
        os.utime(directory / f"{number:016x}{SUFFIX}", ns=(number, number))
    kept.read(f"{0:016x}")
    kept.write(KEY, MADE)
    assert kept.read(f"{0:016x}") == kept.read(KEY) == MADE
    assert kept.read(f"{1:016x}") is None
    assert len(list(directory.iterdir())) == MOST


def test_where_nothing_can_be_kept_it_says_so(tmp_path: Path) -> None:
    """The file that is in the way is named."""
    obstacle = tmp_path / "obstacle"
    obstacle.write_text("no directory")
    said = Kept(obstacle / "cache").write(KEY, MADE)
    assert str(obstacle) in said


def test_what_cannot_be_written_whole_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk shows when the file has begun."""
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:1])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left" in Kept(directory).write(KEY, MADE)
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_only_read_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As part of an image, when a file was last used cannot be noted."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    kept = Kept(directory)
    kept.write(KEY, MADE)
    monkeypatch.setattr(os, "utime", refuse)
    assert kept.read(KEY) == MADE


def test_a_file_by_another_name_is_not_read(directory: Path) -> None:
    """Whoever can rename files could have other programs loaded."""
    kept = Kept(directory)
    kept.write(KEY, MADE)
    (directory / f"{KEY}{SUFFIX}").rename(directory / f"{KEY[::-1]}{SUFFIX}")
    assert kept.read(KEY[::-1]) is None


def test_all_can_be_forgotten(directory: Path) -> None:
    """With the directory, unless there is something of somebody else's."""
    kept = Kept(directory)
    kept.forget()
    kept.write(KEY, MADE)
    other = directory / "other"
    other.write_text("another's")
    kept.forget()
    assert list(directory.iterdir()) == [other]
    other.unlink()
    kept.forget()
    assert not directory.exists()
