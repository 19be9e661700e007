# SPDX-License-Identifier: Apache-2.0
"""Each thing that a node must have can be taken as missing: what `pyproxy check` says then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyproxy.cli import check as command
from pyproxy.errors import ConfigError, KernelError
from pyproxy.kernel import absent, cgroup, diag, features, libbpf, requirements

ALL = [each.name for each in requirements.requirements(None, Path())]
ONLY_LIMITS = {absent.SET_RETVAL, absent.MPTCP, absent.TCX, absent.SOCK_DESTROY}


@pytest.fixture(autouse=True)
def whole_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel and a machine that have everything."""
    for probe in ("map_type_exists", "program_type_exists", "helper_exists", "call"):
        monkeypatch.setattr(libbpf, probe, lambda *_: True)
    monkeypatch.setattr(diag, "can_destroy", lambda: True)
    monkeypatch.setattr(cgroup, "find_root", lambda: Path("/sys/fs/cgroup"))
    monkeypatch.setattr(requirements, "is_on_nodes_bpffs", lambda _: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())


def checked(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, object]]]:
    """Return the status of `pyproxy check` and what it says of each thing."""
    status = command.show(None, Path("/sys/fs/bpf"), command.Files(), as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] is (status == 0)
    return status, {each["name"]: each for each in said["checks"]}


def test_a_node_that_has_everything_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is forced, nothing is missing."""
    status, found = checked(capsys)
    assert (status, list(found)) == (0, ALL)
    assert all(each["ok"] and not each["remedy"] for each in found.values())


@pytest.mark.parametrize("name", ALL)
def test_what_is_forced_absent_is_told_with_its_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It alone is missing; status 1 but where only a feature is lost."""
    monkeypatch.setenv(absent.VARIABLE, f" {name} ,")
    status, found = checked(capsys)
    assert status == (0 if name in ONLY_LIMITS else 1)
    assert [each for each in found if not found[each]["ok"]] == [name]
    assert found[name]["required"] is (name not in ONLY_LIMITS)
    assert found[name]["message"] == _words(name)
    assert found[name]["remedy"]


def _words(name: str) -> str:
    probed = requirements.requirements(None, Path("/sys/fs/bpf"))
    return next(each.absent for each in probed if each.name == name)


@pytest.mark.parametrize("name", ALL)
def test_an_agent_refuses_a_node_that_lacks_what_it_needs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, with the remedy; what only limits, or only compiles, keeps nobody from starting."""
    monkeypatch.setenv(absent.VARIABLE, name)
    if name in ONLY_LIMITS | {absent.BCC}:
        requirements.need(None, Path())
        return
    with pytest.raises(KernelError) as refused:
        requirements.need(None, Path())
    assert name in refused.value.message
    assert refused.value.remedy


def test_all_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to mend one thing to hear of the next, or reads the same remedy twice."""
    monkeypatch.setenv(absent.VARIABLE, "hash maps,tcx,tc programs,cgroup2")
    with pytest.raises(KernelError, match=r"hash maps .*, tc programs .*, cgroup2 ") as refused:
        requirements.need(None, Path())
    assert "tcx" not in refused.value.message
    assert refused.value.remedy.count("5.15") == 1
    assert "mount -t cgroup2" in refused.value.remedy


def test_what_decides_how_programs_are_built_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler and what attaches ask the same question."""
    assert features.probe() == features.Features(set_retval=True, mptcp=True, tcx=True)
    monkeypatch.setenv(absent.VARIABLE, ",".join(ONLY_LIMITS))
    assert features.probe() == features.Features(set_retval=False, mptcp=False, tcx=False)
    with pytest.raises(OSError, match="SOCK_DESTROY"):
        diag.destroy(diag.DatagramSocket(2, (b"", 0), b"", b""))


def test_a_name_that_nothing_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt name would have shown that all is well without it."""
    monkeypatch.setenv(absent.VARIABLE, "tcy")
    with pytest.raises(ConfigError, match=r"'tcy'.*the names are root, hash maps"):
        requirements.check(None, Path())
