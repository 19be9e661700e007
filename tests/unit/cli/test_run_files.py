# SPDX-License-Identifier: Apache-2.0
"""pyproxy run: which of flags, --config and --pyproxy-config counts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from pyproxy.agent.config import RunConfig
from pyproxy.cli import run
from pyproxy.cli.main import main
from pyproxy.kernel import cgroup
from pyproxy.tables import ConnectionTable, ConnectionTimeouts, SocketTranslation

PROXY_FILE = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /from/file}
conntrack: {tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 0s, udpTimeout: 5s}
iptables: {syncPeriod: 20s}
"""
OWN_FILE = """apiVersion: pyproxy/v1alpha1
kind: PyproxyConfiguration
socketTranslation: host
devices: [eth*, cni0]
cgroupRoot: /from/own/cgroup
bpffsRoot: /from/own/bpffs
runDir: /from/own/run
cacheDir: /from/own/cache
connectionTable: {maxEntries: 2000, tcpOpeningTimeout: 7s, tcpClosedTimeout: 3s}
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What agents are started with, instead of agents; the machine has one cgroup root."""
    configs: list[RunConfig] = []
    monkeypatch.setattr(run, "run", lambda chosen, _: configs.append(chosen.config))
    monkeypatch.setattr(cgroup, "find_root", functools.partial(Path, "/found/cgroup"))
    return configs


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """A --pyproxy-config that sets everything."""
    path = tmp_path / "pyproxy.yaml"
    path.write_text(OWN_FILE, encoding="utf-8")
    return path


@pytest.fixture
def proxy_file(tmp_path: Path) -> Path:
    """A --config with what the packet path uses of it."""
    path = tmp_path / "kube-proxy.yaml"
    path.write_text(PROXY_FILE, encoding="utf-8")
    return path


def config_of(started: list[RunConfig], *arguments: object) -> RunConfig:
    """Return what `pyproxy run` with these arguments runs with."""
    assert main(["run", *map(str, arguments)]) == 0
    return started.pop()


def test_without_files_defaults_hold(started: list[RunConfig]) -> None:
    """What the help says."""
    config = config_of(started)
    assert config.socket_translation is SocketTranslation.ALL
    assert config.connections == ConnectionTable()
    assert config.devices == ()
    assert config.kubeconfig is config.manifests is None
    assert config.cgroup_root == Path("/found/cgroup")
    assert config.bpffs_root == Path("/sys/fs/bpf/pyproxy")
    assert config.run_dir == Path("/run/pyproxy")
    assert config.cache_dir == Path("/var/cache/pyproxy")


def test_the_own_file_replaces_defaults(started: list[RunConfig], own_file: Path) -> None:
    """Also those of options that click shows a default for."""
    config = config_of(started, "--pyproxy-config", own_file)
    assert config.socket_translation is SocketTranslation.HOST
    assert config.devices == ("eth*", "cni0")
    assert config.cgroup_root == Path("/from/own/cgroup")
    assert config.bpffs_root == Path("/from/own/bpffs")
    assert config.run_dir == Path("/from/own/run")
    assert config.cache_dir == Path("/from/own/cache")
    timeouts = ConnectionTimeouts(tcp_opening=7, tcp_closed=3)
    assert config.connections == ConnectionTable(2000, timeouts)


FLAGS: dict[str, tuple[str, str, Any]] = {
    "socket_translation": ("--socket-translation", "all", SocketTranslation.ALL),
    "devices": ("--devices", "lan0", ("lan0",)),
    "cgroup_root": ("--cgroup-root", "/flag", Path("/flag")),
    "bpffs_root": ("--bpffs-root", "/sys/fs/bpf/pyproxy", Path("/sys/fs/bpf/pyproxy")),
    "run_dir": ("--run-dir", "/run/pyproxy", Path("/run/pyproxy")),
    "cache_dir": ("--cache-dir", "/elsewhere", Path("/elsewhere")),
}


@pytest.mark.parametrize("setting", FLAGS)
def test_a_flag_wins_over_the_own_file(
    started: list[RunConfig], own_file: Path, setting: str
) -> None:
    """Even one that gives the default; the others keep what the file says."""
    flag, value, expected = FLAGS[setting]
    only_file = config_of(started, "--pyproxy-config", own_file)
    config = config_of(started, "--pyproxy-config", own_file, flag, value)
    assert config == only_file._replace(**{setting: expected})
    assert config != only_file


def test_no_devices_by_flag_are_all_devices(started: list[RunConfig], own_file: Path) -> None:
    """An empty flag takes back what the file chose."""
    assert config_of(started, "--pyproxy-config", own_file, "--devices", "").devices == ()


def test_timeouts_come_from_both_files(
    started: list[RunConfig], own_file: Path, proxy_file: Path
) -> None:
    """kube-proxy's where it has them, ours else; neither spoils the other's."""
    from_proxy = ConnectionTimeouts(tcp_established=7200, udp=5)
    config = config_of(started, "--config", proxy_file)
    assert config.connections == ConnectionTable(timeouts=from_proxy)
    assert config.sync_period_s == 20
    config = config_of(started, "--config", proxy_file, "--pyproxy-config", own_file)
    both = from_proxy._replace(tcp_opening=7, tcp_closed=3)
    assert config.connections == ConnectionTable(2000, both)


@pytest.mark.parametrize(
    ("arguments", "kubeconfig", "manifests"),
    [
        ((), "/from/file", None),
        (("--kubeconfig", "/flag"), "/flag", None),
        (("--manifests", "/folder"), None, "/folder"),
    ],
)
def test_the_source_of_objects(
    started: list[RunConfig],
    proxy_file: Path,
    arguments: tuple[str, ...],
    kubeconfig: str | None,
    manifests: str | None,
) -> None:
    """The file's kubeconfig counts where no flag names a source."""
    config = config_of(started, "--config", proxy_file, *arguments)
    assert config.kubeconfig == (Path(kubeconfig) if kubeconfig else None)
    assert config.manifests == (Path(manifests) if manifests else None)


def test_warnings_name_the_file(
    monkeypatch: pytest.MonkeyPatch, own_file: Path, proxy_file: Path
) -> None:
    """A field that does nothing is named once, with where it stands."""
    own_file.write_text(OWN_FILE + "colour: red\n", encoding="utf-8")
    proxy_file.write_text(PROXY_FILE + "colour: red\n", encoding="utf-8")
    remarks: list[str] = []
    monkeypatch.setattr(run, "run", lambda chosen, _: remarks.extend(chosen.remarks))
    assert main(["run", f"--config={proxy_file}", f"--pyproxy-config={own_file}"]) == 0
    assert [each for each in remarks if "colour" in each] == [
        f"{path}: colour is unknown: it is passed over" for path in (proxy_file, own_file)
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN_FILE.replace("host", "pods"), "socketTranslation must be all or host"),
        (OWN_FILE.replace("v1alpha1", "v2"), "apiVersion must be pyproxy/v1alpha1"),
        (
            OWN_FILE.replace("2000", "20").replace("7s", "7"),
            "maxEntries must be an integer from 1024 to 4194304; connectionTable.tcpOpeningTimeout",
        ),
        ("{", "neither YAML nor JSON"),
    ],
)
def test_a_wrong_file_is_a_failure(
    started: list[RunConfig],
    own_file: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    said: str,
) -> None:
    """One line tells all that is wrong, with the file's name."""
    own_file.write_text(text, encoding="utf-8")
    assert main(["run", "--pyproxy-config", str(own_file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyproxy: {own_file}: ")
    assert said in line
    assert started == []


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--socket-translation", "pods", "'pods' is not one of 'all', 'host'"),
        ("--pyproxy-config", "/nowhere", "give --pyproxy-config a file that may be read"),
    ],
)
def test_a_wrong_flag_is_wrong_usage(
    started: list[RunConfig], capsys: pytest.CaptureFixture[str], flag: str, value: str, said: str
) -> None:
    """With what is right."""
    assert main(["run", flag, value]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert started == []
