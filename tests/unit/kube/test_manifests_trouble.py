# SPDX-License-Identifier: Apache-2.0
"""Files and directories that cannot be read leave everything in force and are reported."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyproxy.errors import SourceError
from pyproxy.kube import manifests
from pyproxy.kube.dirwatch import DirectoryWatch
from pyproxy.kube.events import Change, Event, Synced
from pyproxy.kube.manifests import ManifestSource
from tests import builders
from tests.unit.kube.following import BOUND_S, Followed, text_of


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to("a.yaml"), "symbolic links"),
        (lambda path: os.link(big_file(path), path), "more than 64 MiB"),
    ],
)
def test_files_that_cannot_be_read(
    followed: Followed, make: Callable[[Path], Any], why: str
) -> None:
    """What held objects before keeps them; the report says why and goes with the file."""
    path = followed.directory / "a.yaml"
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    beside = followed.directory / ".beside"
    make(beside)
    beside.rename(path)
    followed.until_report("/a.yaml", why)
    assert followed.state.ips() == {"a": 1}
    path.unlink()
    followed.until_report("/a.yaml", "")
    assert followed.state.ips() == {}


def big_file(path: Path) -> Path:
    """Make a sparse file just over the limit."""
    big = path.with_name(".big")
    with big.open("wb") as file:
        file.truncate(manifests.MAX_FILE_BYTES + 1)
    return big


def test_a_directory_that_is_moved_away_and_comes_back(followed: Followed, tmp_path: Path) -> None:
    """Everything stays in force meanwhile; when it is back it is read again."""
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    followed.directory.rename(tmp_path / "away")
    followed.until_report(str(followed.directory), "cannot be read")
    assert followed.state.ips() == {"a": 1}
    (tmp_path / "away" / "a.yaml").write_text(text_of("10.0.0.2"))
    (tmp_path / "away").rename(followed.directory)
    followed.until_report(str(followed.directory), "")
    followed.until_ips(a=2)
    followed.write("a.yaml", text_of("10.0.0.3"))
    followed.until_ips(a=3)


def test_a_file_that_went_with_its_directory_stays(tmp_path: Path) -> None:
    """A file that is missing because its directory is says nothing about its objects."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    source = ManifestSource(directory, lambda _: None)
    watch = source._open_watch()
    source._catalogue.put("a.yaml", text_of("10.0.0.1").encode())
    shutil.rmtree(directory)
    try:
        assert source._read("a.yaml", watch) == []
        directory.mkdir()
        (change,) = source._read("a.yaml", watch)
        assert isinstance(change, Change)
        assert change.object is None
    finally:
        watch.close()


def test_a_directory_whose_parents_vanish_and_come_back(tmp_path: Path) -> None:
    """However much of the path is gone, it is noticed when it is whole again."""
    directory = tmp_path / "x" / "y" / "manifests"
    directory.mkdir(parents=True)
    one = Followed(directory)
    one.start()
    try:
        shutil.rmtree(tmp_path / "x")
        one.until_report(str(directory), "cannot be read")
        directory.mkdir(parents=True)
        one.until_report(str(directory), "")
        one.write("a.yaml", text_of("10.0.0.1"))
        one.until_ips(a=1)
    finally:
        one.source.stop()


def test_a_directory_that_is_replaced(followed: Followed, tmp_path: Path) -> None:
    """Another directory at the path is the truth from then on."""
    followed.write("a.yaml", text_of("10.0.0.1", "10.0.0.2"))
    followed.until_ips(a=1, b=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.yaml").write_text(text_of("10.0.0.5"))
    followed.directory.rename(tmp_path / "away")
    other.rename(followed.directory)
    followed.until_ips(a=5)
    followed.write("b.yaml", text_of("10.0.0.6"))
    followed.until_ips(a=6)


def test_a_lost_event_queue_is_made_up_for(tmp_path: Path) -> None:
    """After IN_Q_OVERFLOW everything is read again."""
    gate = threading.Event()
    one = Followed(tmp_path)
    events = one.events

    def put(event: Event) -> None:
        events.put(event)
        if not isinstance(event, Synced):
            gate.wait(BOUND_S)

    one.source = ManifestSource(tmp_path, put)
    one.start()
    try:
        writer = (tmp_path / "a.yaml").open("w")
        writer.write(text_of("10.0.0.1"))
        writer.flush()
        one.write("block.yaml", yaml.dump(builders.node()))
        one.until(lambda: len(one.state.objects) == 1)
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        path, other = tmp_path / ".x", tmp_path / ".y"
        path.touch()
        for _ in range(limit // 2 + 1):
            os.rename(path, other)  # noqa: PTH104 - thousands of them: the bare call
            path, other = other, path
        writer.close()  # nobody hears of it: the queue is full
        (tmp_path / "block.yaml").unlink()
        gate.set()
        one.until_ips(a=1)
    finally:
        gate.set()
        one.source.stop()


def test_stop_is_prompt_final_and_repeatable(followed: Followed) -> None:
    """After stop no event comes and no descriptor or thread is left."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    started = time.monotonic()
    followed.source.stop()
    followed.source.stop()
    assert time.monotonic() - started < 0.5
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 2
    assert "manifests" not in {thread.name for thread in threading.enumerate()}
    followed.write("a.yaml", text_of("10.0.0.1"))
    assert followed.events.empty()


def test_stop_without_start(tmp_path: Path) -> None:
    """A source that was never started can be stopped."""
    ManifestSource(tmp_path, lambda _: None).stop()


@pytest.mark.parametrize("name", ["absent", "file"])
def test_no_directory_at_the_start(tmp_path: Path, name: str) -> None:
    """A directory that cannot be read at the start is one sentence with the remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="give --manifests a directory") as caught:
        ManifestSource(tmp_path / name, lambda _: None).start()
    assert str(tmp_path / name) in caught.value.message


def test_no_inotify_instances_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy names the sysctl."""

    def refuse(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(manifests, "DirectoryWatch", refuse)
    with pytest.raises(SourceError, match="max_user_instances"):
        ManifestSource(tmp_path, lambda _: None).start()


def test_an_ancestor_made_just_before_it_is_watched_for_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody announces a directory that appears between the look at its parent and the watch."""
    directory = tmp_path / "x" / "manifests"
    watch = DirectoryWatch(directory)
    original = DirectoryWatch._watch_ancestor

    def late(self: DirectoryWatch, ancestor: Path) -> None:
        (tmp_path / "x").mkdir(exist_ok=True)
        original(self, ancestor)

    monkeypatch.setattr(DirectoryWatch, "_watch_ancestor", late)
    assert not watch.wait_for_directory()
    watch.drain()
    watch.hints()
    directory.mkdir()
    watch.drain()
    assert watch.hints().scan
    watch.close()
