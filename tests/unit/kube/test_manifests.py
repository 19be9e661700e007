# SPDX-License-Identifier: Apache-2.0
"""A directory of manifests is followed file by file, with real files and real inotify."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from pyproxy.kube import manifests
from pyproxy.kube.dirwatch import is_manifest
from pyproxy.kube.events import Report, Synced
from tests import builders
from tests.unit.kube.following import Followed, text_of


def test_what_is_there_comes_before_synced(tmp_path: Path) -> None:
    """Everything in the directory is delivered first, in any of the three suffixes."""
    (tmp_path / "a.yaml").write_text(text_of("10.0.0.1"))
    (tmp_path / "b.yml").write_text(yaml.dump(builders.endpoint_slice()))
    (tmp_path / "c.json").write_text(json.dumps(builders.node()))
    (tmp_path / "bad.yaml").write_text("a: [")
    one = Followed(tmp_path)
    one.start()
    try:
        assert isinstance(one.seen[-1], Synced)
        assert {key.kind.value for key in one.state.objects} == {"Service", "EndpointSlice", "Node"}
        assert "cannot be parsed" in one.report("bad.yaml")
    finally:
        one.source.stop()


@pytest.mark.parametrize("name", [".a.yaml", "a.yaml~", "a.txt", "a.YAML", "yaml", "a.yaml.swp"])
def test_other_files_are_ignored(followed: Followed, name: str) -> None:
    """Dot files and other suffixes hold nothing."""
    assert not is_manifest(name)
    followed.write(name, text_of("10.0.0.1"))
    followed.fence()
    assert followed.state.ips().keys() == {"fence"}


def test_files_in_folders_are_ignored(followed: Followed) -> None:
    """Only files directly in the directory count, whatever a folder is called."""
    folder = followed.directory / "folder.yaml"
    folder.mkdir()
    (folder / "a.yaml").write_text(text_of("10.0.0.1"))
    followed.fence()
    assert followed.state.ips().keys() == {"fence"}
    assert followed.state.reports == {}


@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_new_and_a_changed_file(followed: Followed, how: str) -> None:
    """Writing in place and replacement by rename both take effect."""
    getattr(followed, how)("a.yaml", text_of("10.0.0.1", "10.0.0.2"))
    followed.until_ips(a=1, b=2)
    getattr(followed, how)("a.yaml", text_of("10.0.0.3"))
    followed.until_ips(a=3)


@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_a_removed_file_removes_its_objects(followed: Followed, tmp_path: Path, how: str) -> None:
    """Deleting a file and moving it away are the same."""
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    path = followed.directory / "a.yaml"
    path.unlink() if how == "unlink" else path.rename(tmp_path / "away.yaml")
    followed.until_ips()


def test_a_half_written_file_changes_nothing(followed: Followed) -> None:
    """A file is read when its writer has closed it, not before."""
    followed.write("a.yaml", text_of("10.0.0.1", "10.0.0.2"))
    followed.until_ips(a=1, b=2)
    seen = len(followed.seen)
    text = text_of("10.0.0.3", "10.0.0.4")
    with (followed.directory / "a.yaml").open("w") as file:
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            file.write(part)
            file.flush()
            (followed.directory / "a.yaml").chmod(0o600)
            followed.fence()
            assert followed.state.ips().keys() == {"a", "b", "fence"}
            assert followed.state.ips()["a"] == 1
    followed.until(lambda: followed.state.ips()["a"] == 3)
    reports = [event for event in followed.seen[seen:] if isinstance(event, Report)]
    assert reports == []


def find_empty(
    monkeypatch: pytest.MonkeyPatch, path: Path, meanwhile: Callable[[], object]
) -> None:
    """Have a file looked at, and its reader find nothing in it because of what happens then."""
    read, found = manifests.read_file, threading.Event()

    def read_between(which: Path) -> bytes:
        if which != path or found.is_set():
            return read(which)
        found.set()
        meanwhile()
        return b""

    monkeypatch.setattr(manifests, "read_file", read_between)
    path.touch()


def test_a_file_that_is_opened_again_while_it_is_read(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that truncates the file just before it is read takes no object away."""
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    path, writers = followed.directory / "a.yaml", list[TextIO]()
    find_empty(monkeypatch, path, lambda: writers.append(path.open("w")))
    followed.fence()
    assert followed.state.ips()["a"] == 1
    with writers[0] as file:
        file.write(text_of("10.0.0.2"))
    followed.until(lambda: followed.state.ips()["a"] == 2)


def test_a_file_that_is_written_anew_while_it_is_read(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read in the midst of it counts for nothing, though its writer is done by then."""
    followed.write("a.yaml", text_of("10.0.0.1", "10.0.0.2"))
    followed.until_ips(a=1, b=2)
    path, text = followed.directory / "a.yaml", text_of("10.0.0.3", "10.0.0.999")
    find_empty(monkeypatch, path, lambda: path.write_text(text))
    followed.until_ips(a=3, b=2)


def test_a_file_is_empty_before_the_kernel_tells_of_it(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is between the truncation and the word of it takes no object away, either."""
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    path, told = followed.directory / "a.yaml", threading.Event()
    writers = list[TextIO]()

    def truncate() -> None:
        writers.append(path.open("w"))
        told.set()

    find_empty(monkeypatch, path, threading.Timer(manifests.TRUNCATED_S / 10, truncate).start)
    assert told.wait(5)
    followed.fence()
    assert followed.state.ips()["a"] == 1
    with writers[0] as file:
        file.write(text_of("10.0.0.2"))
    followed.until(lambda: followed.state.ips()["a"] == 2)


def test_a_new_file_counts_from_its_first_close(followed: Followed) -> None:
    """A file that is created empty and filled later is not read in between."""
    path = followed.directory / "a.yaml"
    with path.open("w") as file:
        followed.fence()
        file.write(text_of("10.0.0.1"))
    followed.until(lambda: followed.state.ips().get("a") == 1)


def test_links_count_at_once(followed: Followed, tmp_path: Path) -> None:
    """Symbolic and hard links to finished files have no writer to wait for."""
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(text_of("10.0.0.1"))
    (followed.directory / "symbolic.yaml").symlink_to(elsewhere)
    followed.until_ips(a=1)
    (followed.directory / "symbolic.yaml").unlink()
    followed.until_ips()
    (followed.directory / "hard.yaml").hardlink_to(elsewhere)
    followed.until_ips(a=1)


def test_a_config_map_volume(tmp_path: Path) -> None:
    """Kubernetes publishes a new version by swapping the link ..data."""

    def publish(version: str, **files: str) -> None:
        (tmp_path / version).mkdir()
        for name, text in files.items():
            (tmp_path / version / f"{name}.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("..1", a=text_of("10.0.0.1"))
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    one = Followed(tmp_path)
    one.start()
    try:
        one.until_ips(a=1)
        publish("..2", a=text_of("10.0.0.2"))
        shutil.rmtree(tmp_path / "..1")
        one.until_ips(a=2)
    finally:
        one.source.stop()


def test_an_object_in_two_files(followed: Followed) -> None:
    """The first file by name counts; the report goes when the double goes."""
    followed.write("b.yaml", text_of("10.0.0.2"))
    followed.until_ips(a=2)
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.until_ips(a=1)
    followed.until_report("Service default/a", "a.yaml counts")
    (followed.directory / "a.yaml").unlink()
    followed.until_ips(a=2)
    followed.until_report("Service default/a", "")


def test_a_file_that_stops_parsing(followed: Followed) -> None:
    """It keeps its objects and is reported until it is mended."""
    followed.write("a.yaml", text_of("10.0.0.1"))
    followed.write("b.yaml", text_of("10.0.0.9"))
    followed.until_ips(a=1)
    followed.write("a.yaml", "kind: }")
    followed.until_report("/a.yaml", "cannot be parsed: line 1")
    assert followed.state.ips() == {"a": 1}
    followed.write("a.yaml", text_of("10.0.0.3"))
    followed.until_report("/a.yaml", "")
    assert followed.state.ips() == {"a": 3}


def test_a_malformed_object_among_good_ones(followed: Followed) -> None:
    """The good one changes, the malformed one keeps its last good version."""
    followed.write("a.yaml", text_of("10.0.0.1", "10.0.0.2"))
    followed.until_ips(a=1, b=2)
    followed.write("a.yaml", text_of("10.0.0.3", "10.0.0.999"))
    followed.until_ips(a=3, b=2)
    followed.until_report("Service default/b in " + str(followed.directory / "a.yaml"), "clusterIP")
