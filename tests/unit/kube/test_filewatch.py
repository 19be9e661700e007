# SPDX-License-Identifier: Apache-2.0
"""A file's new contents are noticed however they come, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from inotify_simple import Event, INotify

from pyproxy.kube import filewatch
from pyproxy.kube.filewatch import FileWatch
from tests.lab.waiting import wait_for

SOON_S = 5.0
# so long that only inotify can be it
NEVER_S = 600.0


class Told:
    """How often a change was told of."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        """Count."""
        self.times += 1

    def wait(self, times: int) -> None:
        """Wait until it was told so often, or more: a writer may be seen halfway."""
        wait_for(lambda: self.times >= times, SOON_S, f"{times} calls")


@contextlib.contextmanager
def watching(*files: Path, look_s: float = NEVER_S) -> Iterator[Told]:
    """Watch files; the first call has come."""
    told = Told()
    watch = FileWatch(files, told, look_s)
    watch.start()
    try:
        told.wait(1)
        yield told
    finally:
        watch.stop()
    assert not any(thread.name == "configuration" for thread in threading.enumerate())


def swap(volume: Path, version: str, text: str) -> None:
    """Publish a version of a ConfigMap volume as kubelet does."""
    (volume / version).mkdir()
    (volume / version / "config.conf").write_text(text, encoding="utf-8")
    (volume / "..data_tmp").symlink_to(version)
    (volume / "..data_tmp").rename(volume / "..data")


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    """In place, by a rename, taken away and put back."""
    file = tmp_path / "config"
    file.write_text("1", encoding="utf-8")
    with watching(file) as told:
        file.write_text("2", encoding="utf-8")
        told.wait(2)
        (tmp_path / "new").write_text("3", encoding="utf-8")
        (tmp_path / "new").rename(file)
        told.wait(3)
        file.unlink()
        told.wait(4)
        file.write_text("4", encoding="utf-8")
        told.wait(5)


def test_a_config_map_is_replaced(tmp_path: Path) -> None:
    """The file is a link into ..data, which becomes a link elsewhere."""
    swap(tmp_path, "..1", "one")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    with watching(tmp_path / "config.conf") as told:
        swap(tmp_path, "..2", "two")
        told.wait(2)
        swap(tmp_path, "..3", "three")
        told.wait(3)


def test_a_link_in_the_middle_of_the_path(tmp_path: Path) -> None:
    """A directory that is a link, in a directory that is one: what it leads to is watched too."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").write_text(name, encoding="utf-8")
    (tmp_path / "link").symlink_to("a")
    with watching(tmp_path / "link" / "config") as told:
        (tmp_path / "a" / "config").write_text("other", encoding="utf-8")
        told.wait(2)
        (tmp_path / "new").symlink_to("b")
        (tmp_path / "new").rename(tmp_path / "link")
        told.wait(3)


def test_the_same_contents_and_other_files_are_nothing(tmp_path: Path) -> None:
    """What is put there again as it was, and what lies beside it."""
    file = tmp_path / "config"
    file.write_text("1", encoding="utf-8")
    with watching(file) as told:
        for text in ("1", "1", "2"):
            (tmp_path / "other").write_text(text, encoding="utf-8")
            os.utime(file)
            (tmp_path / "other").rename(file)
        told.wait(2)
    assert told.times == 2


class Heard(INotify):  # type: ignore[misc]  # it has no types
    """Notes the names of what has been heard of."""

    names: ClassVar[list[str]] = []

    def read(self, *args: Any, **options: Any) -> list[Event]:
        """As INotify's."""
        found: list[Event] = super().read(*args, **options)
        self.names.extend(each.name for each in found)
        return found


@pytest.mark.parametrize("is_new", [False, True])
def test_a_file_that_is_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    """Half a file may be a valid one: until its writer has closed it, other events are none."""
    monkeypatch.setattr(filewatch, "INotify", Heard)
    monkeypatch.setattr(Heard, "names", [])
    file, seen = tmp_path / "config", list[str]()
    if not is_new:
        file.write_text("1", encoding="utf-8")
    watch = FileWatch([file], lambda: seen.append(file.read_text() if file.exists() else ""))
    watch.start()
    wait_for(lambda: seen, SOON_S, "the first call")
    with file.open("w", encoding="utf-8") as writing:
        for number, text in enumerate(("", "ha", "lf")):
            writing.write(text)
            writing.flush()
            for name in (f"{number}-a", f"{number}-b"):  # a look is over when the next is heard of
                (tmp_path / name).touch()
                wait_for(lambda name=name: name in Heard.names, SOON_S, name)  # type: ignore[misc]
    wait_for(lambda: len(seen) > 1, SOON_S, "the second call")
    watch.stop()
    assert seen[1:] == ["half"]


def test_links_that_lead_in_circles_are_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Until they lead somewhere."""
    file = tmp_path / "config"
    file.symlink_to("other")
    (tmp_path / "other").symlink_to("config")
    with watching(file) as told:
        (tmp_path / "other").unlink()
        (tmp_path / "other").write_text("1", encoding="utf-8")
        told.wait(2)


def test_who_never_ends_to_write_is_looked_at_all_the_same(tmp_path: Path) -> None:
    """When nothing was heard of it for as long as a look without inotify may take."""
    file = tmp_path / "config"
    file.write_text("1", encoding="utf-8")
    with watching(file, look_s=0.05) as told, file.open("w", encoding="utf-8") as writing:
        writing.write("2")
        writing.flush()
        told.wait(2)


def test_without_inotify_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that has none left still sees changes, a little later."""

    def refuse(**_: bool) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(filewatch, "INotify", refuse)
    file = tmp_path / "config"
    with watching(file, look_s=0.05) as told:
        file.write_text("2", encoding="utf-8")
        told.wait(2)
    assert "there is no inotify: Too many open files" in caplog.text
