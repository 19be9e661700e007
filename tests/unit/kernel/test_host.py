# SPDX-License-Identifier: Apache-2.0
"""The kernel's connection tracking is sized as kube-proxy does it; below a root of the tests'."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.agent import hostsetup
from pyproxy.kernel import host
from pyproxy.tables import Conntrack

DEFAULT = Conntrack()
NOTHING = Conntrack(0, 131_072, tcp_established_timeout_s=0, tcp_close_wait_timeout_s=0)
BEFORE = {
    "nf_conntrack_max": 262_144,
    "nf_conntrack_tcp_be_liberal": 0,
    "nf_conntrack_tcp_timeout_established": 432_000,
    "nf_conntrack_tcp_timeout_close_wait": 60,
    "nf_conntrack_udp_timeout": 30,
    "nf_conntrack_udp_timeout_stream": 120,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the kernel shows of itself; 65536 is its own default of buckets."""
    sysctls = tmp_path / host.SYSCTLS
    sysctls.mkdir(parents=True)
    for name, value in BEFORE.items():
        (sysctls / name).write_text(f"{value}\n")
    for path, value in ((host.HASH_SIZE, 65_536), (host.OOM_SCORE, 0)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value}\n")
    return tmp_path


def test_what_a_container_cannot_write_is_written_where_it_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/sys is read-only there; without a mount the error names the kernel's own path."""
    own, mounted = tmp_path / "own" / "sysctl", tmp_path / "host"
    twin = mounted / own.relative_to("/")
    for path in (own, twin):
        path.parent.mkdir(parents=True)
        path.touch()
    assert host.writable(own, mounted) == own
    monkeypatch.setattr("os.access", lambda path, _: path != own and path.exists())
    assert host.writable(own, mounted) == twin
    twin.unlink()
    assert host.writable(own, mounted) == own


def present(root: Path) -> dict[str, int]:
    """Return what is set now and was not before."""
    values = {name: int((root / host.SYSCTLS / name).read_text()) for name in BEFORE}
    values["hashsize"] = int((root / host.HASH_SIZE).read_text())
    return {name: n for name, n in values.items() if BEFORE.get(name, 65_536) != n}


@pytest.mark.parametrize(
    ("max_per_core", "least", "cpus", "size"),
    [
        (32_768, 131_072, 2, 131_072),  # the least
        (32_768, 131_072, 8, 262_144),
        (32_768, 131_072, 32, 1_048_576),
        (32_768, 131_072, 96, 1_048_576),  # not more
        (1, 2_000_000, 2, 2_000_000),  # which does not hold for the least
        (0, 131_072, 8, 0),  # which does not count then
    ],
)
def test_the_size(max_per_core: int, least: int, cpus: int, size: int) -> None:
    """By the CPUs, between both bounds (A17.1)."""
    assert host.wanted_size(Conntrack(max_per_core, least), cpus) == size


def test_what_kube_proxy_sets_by_default(root: Path) -> None:
    """Its size and TCP's timeouts; UDP's are the kernel's (A17.2, A19.4)."""
    assert host.set_conntrack(DEFAULT, root, 2) == [
        "nf_conntrack_max: 131072 (was 262144)",
        "nf_conntrack_tcp_timeout_established: 86400 (was 432000)",
        "nf_conntrack_tcp_timeout_close_wait: 3600 (was 60)",
    ]
    assert len(present(root)) == 3
    assert host.set_conntrack(DEFAULT, root, 2) == [], "all is as wanted"


def test_all_that_can_be_set(root: Path) -> None:
    """The table's buckets are a quarter of its size, where they were fewer."""
    host.set_conntrack(Conntrack(1 << 17, 0, True, 1, 2, 3, 4), root, 8)
    assert present(root) == {
        "nf_conntrack_max": 1 << 20,
        "nf_conntrack_tcp_be_liberal": 1,
        "nf_conntrack_tcp_timeout_established": 1,
        "nf_conntrack_tcp_timeout_close_wait": 2,
        "nf_conntrack_udp_timeout": 3,
        "nf_conntrack_udp_timeout_stream": 4,
        "hashsize": 1 << 18,
    }


def test_a_table_of_another_namespace(root: Path) -> None:
    """There the size is read-only: neither is it ours to change, nor a fault; timeouts are ours."""
    (root / host.SYSCTLS / host.SIZE).chmod(0o444)
    host.set_conntrack(DEFAULT, root, 64)
    assert present(root).keys() == {
        "nf_conntrack_tcp_timeout_established",
        "nf_conntrack_tcp_timeout_close_wait",
    }


def test_zeros_leave_the_kernel_alone(root: Path) -> None:
    """So kind has it, whose nodes share a kernel; liberal is only ever switched on."""
    (root / host.SYSCTLS / "nf_conntrack_tcp_be_liberal").write_text("1")
    assert host.set_conntrack(NOTHING, root, 64) == []


def test_a_kernel_that_tracks_nothing(tmp_path: Path) -> None:
    """Has nothing to be set, and that is no failure."""
    assert host.set_conntrack(DEFAULT, tmp_path, 2) == []


def test_what_cannot_be_set_costs_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A table whose size stays keeps its buckets, too.

    One line says what to do, and the agent goes on.
    """
    refused = root / host.SYSCTLS / host.SIZE
    refused.unlink()
    refused.mkdir()
    monkeypatch.setattr(host.set_conntrack, "__defaults__", (root, 64))
    hostsetup.set_conntrack(DEFAULT)
    assert (root / host.SYSCTLS / "nf_conntrack_tcp_timeout_close_wait").read_text() == "3600\n"
    assert (root / host.HASH_SIZE).read_text() == "65536\n"
    (warning,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert str(refused) in warning.message
    assert "set conntrack.maxPerCore" in warning.message


def test_tracking_that_comes_late_is_set_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours loads it: the settings count when a CNI does, and not over an operator's."""
    size = root / host.SYSCTLS / host.SIZE
    size.rename(root / "not-yet")
    monkeypatch.setattr(host.tracks_connections, "__defaults__", (root,))
    monkeypatch.setattr(host.set_conntrack, "__defaults__", (root, 32))
    late = hostsetup.LateTracking(lambda: DEFAULT)
    late.look()
    assert present_timeouts(root) == (432_000, 60)
    (root / "not-yet").rename(size)
    late.look()
    assert size.read_text() == "1048576\n"
    assert present_timeouts(root) == (86_400, 3600)
    size.write_text("7\n")
    late.look()
    hostsetup.LateTracking(lambda: DEFAULT).look()
    assert size.read_text() == "7\n"


def present_timeouts(root: Path) -> tuple[int, int]:
    """Return how long TCP's connections are tracked, established and half closed."""
    at = root / host.SYSCTLS / "nf_conntrack_tcp_timeout_"
    established, close_wait = (
        int(Path(f"{at}{name}").read_text()) for name in ("established", "close_wait")
    )
    return established, close_wait


def test_the_oom_score(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As kube-proxy's; a failure is only logged (A17.4)."""
    monkeypatch.setattr(host.set_oom_score, "__defaults__", (root,))
    hostsetup.set_oom_score(-999)
    assert (root / host.OOM_SCORE).read_text() == "-999\n"
    assert caplog.messages == []
    (root / host.OOM_SCORE).unlink()
    hostsetup.set_oom_score(-999)
    assert caplog.messages[0].startswith("oom_score_adj stays as it is, not -999")
