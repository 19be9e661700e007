# SPDX-License-Identifier: Apache-2.0
"""`pyproxy check` looks at configuration files more strictly than an agent (parity A19.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyproxy.cli import check
from pyproxy.cli.main import main

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\n"


@pytest.fixture(autouse=True)
def _any_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has all it takes: the files alone are looked at."""
    monkeypatch.setattr(check, "check", lambda *_: [])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "config.conf"


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return exit status and object of `check -o json`."""
    status = main(["check", "-o", "json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_a_right_file(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """What has no meaning is noted and no error."""
    file.write_text(f"{HEAD}mode: nftables\nconfigSyncPeriod: 1m", encoding="utf-8")
    status, found = checked(capsys, f"--config={file}")
    assert status == 0
    assert found["healthy"]
    assert list(found) == ["schema", "healthy", "checks", "files"]
    (entry,) = found["files"]
    assert (entry["file"], entry["errors"]) == (str(file), [])
    assert [note.partition(" ")[0] for note in entry["warnings"]] == ["configSyncPeriod"]


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (f"{HEAD}colour: red", ["colour is unknown"]),
        (f"{HEAD}mode: ipvs\nmode: iptables", ["mode stands twice"]),
        (f"{HEAD}oomScoreAdj: 2000\nmode: x\ny: 1", ["mode: ", "oomScoreAdj must", "y is unk"]),
        (OWN, ["apiVersion must be", "kind must be"]),
        ("{", [""]),
    ],
)
def test_a_wrong_file(
    capsys: pytest.CaptureFixture[str], file: Path, text: str, errors: list[str]
) -> None:
    """Unknown and duplicate fields are errors here; all come together."""
    file.write_text(text, encoding="utf-8")
    status, found = checked(capsys, f"--config={file}")
    assert status == 1
    assert not found["healthy"]
    told = sorted(found["files"][0]["errors"])
    assert len(told) == len(errors)
    assert all(error.startswith(begin) for error, begin in zip(told, errors, strict=True))
    assert main(["check", f"--config={file}"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_both_files(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    """One that is not there is an error, too."""
    own = tmp_path / "own.yaml"
    own.write_text(f"{OWN}devices: 5\ncolour: red", encoding="utf-8")
    status, found = checked(capsys, f"--config={file}", f"--pyproxy-config={own}")
    assert status == 1
    first, second = found["files"]
    assert "cannot be read" in first["errors"][0]
    assert sorted(error.split()[0] for error in second["errors"]) == ["colour", "devices"]


def test_without_files_nothing_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    """The object is as it was."""
    assert checked(capsys) == (
        0,
        {"schema": "pyproxy.check/1", "healthy": True, "checks": []},
    )
