# SPDX-License-Identifier: Apache-2.0
"""`pyproxy run` takes kube-proxy's command line as pflag does (parity A18)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pyproxy.agent.config import RunConfig
from pyproxy.cli import run
from pyproxy.cli.main import main
from pyproxy.kernel import cgroup
from pyproxy.kube.proxyconfig import parse_config
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.plan.options import Mode
from tests.unit.kube.kubeadm import CONFIG


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("pyproxy")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What agents are started with, instead of agents."""
    configs: list[RunConfig] = []
    monkeypatch.setattr(run, "run", lambda chosen, _: configs.append(chosen.config))
    monkeypatch.setattr(cgroup, "find_root", lambda: Path("/found/cgroup"))
    return configs


@pytest.mark.parametrize(
    ("arguments", "masquerades"),
    [
        (["--masquerade-all"], True),
        (["--masquerade-all=true"], True),
        (["--masquerade_all=1"], True),
        (["--masquerade-all=false"], False),
        (["--masquerade-all", "--profiling"], True),
    ],
)
def test_booleans(started: list[RunConfig], arguments: list[str], masquerades: bool) -> None:
    """With a value or without one; words of names may be joined by underscores."""
    assert main(["run", *arguments]) == 0
    assert started[0].options.masquerade_all is masquerades


@pytest.mark.parametrize("verbosity", [["-v", "4"], ["-v=4"], ["-v4"], ["--v=4"], ["--v", "4"]])
def test_verbosity(started: list[RunConfig], verbosity: list[str]) -> None:
    """In all the ways that pflag reads it."""
    assert main(["run", *verbosity, "--vmodule=sync=9"]) == 0
    assert started[0].logging == LogSettings(verbosity=4, vmodule=(("sync", 9),))


@pytest.mark.parametrize("flag", ["--windows-service", "--source-vip=1", "--enable-dsr", "word"])
def test_what_is_for_windows_is_wrong_usage(started: list[RunConfig], flag: str) -> None:
    """As kube-proxy of Linux knows no such flags, and no arguments (A18.1, A18.9)."""
    assert main(["run", flag]) == 2
    assert started == []


def test_what_servers_and_host_are_given(started: list[RunConfig]) -> None:
    """Flags that only pass through."""
    flags = "--master=https://x:1 --oom-score-adj=-5 --profiling --bind-address-hard-fail"
    assert main(["run", *flags.split(), "--proxy-mode=ipvs", "--bind-address=10.0.0.9"]) == 0
    (config,) = started
    assert (config.master, config.oom_score_adj) == ("https://x:1", -5)
    assert config.bind_address_hard_fail
    assert config.proxy_mode == "ipvs"
    assert config.options.node_ips == (bytes((10, 0, 0, 9)),)
    assert config.configuration["mode"] == "ipvs"


@pytest.mark.parametrize("release", CONFIG)
def test_kubeadms_config_map_starts_an_agent(
    started: list[RunConfig], tmp_path: Path, release: str
) -> None:
    """With the arguments of kubeadm's DaemonSet (A17.10), and nothing to complain of."""
    file = tmp_path / "config.conf"
    file.write_text(CONFIG[release], encoding="utf-8")
    assert main(["run", f"--config={file}", "--hostname-override=Node-1"]) == 0
    (config,) = started
    assert config.kubeconfig == Path("/var/lib/kube-proxy/kubeconfig.conf")
    assert config.options.node_name == "node-1"
    assert config.options.mode is Mode.IPTABLES
    assert config.healthz_bind_address == ("0.0.0.0", 10256)
    assert config.metrics_bind_address == ("127.0.0.1", 10249)
    assert config.sync_period_s == 30
    assert config.files == (file,)


def test_write_config_to(started: list[RunConfig], tmp_path: Path) -> None:
    """Flags alone, and a file: written with all defaults, and nothing is started (A18.1)."""
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--proxy-mode=nftables", "--cluster-cidr=10.0.0.0/8", "--hostname-override=N"]
    assert main(["run", *flags, f"--write-config-to={first}"]) == 0
    found = yaml.safe_load(first.read_text())
    assert (found["mode"], found["clusterCIDR"], found["hostnameOverride"]) == (
        "nftables",
        "10.0.0.0/8",
        "n",
    )
    assert found["nodePortAddresses"] == ["primary"]
    assert main(["run", f"--config={first}", f"--write-config-to={second}"]) == 0
    assert second.read_text() == first.read_text()
    assert parse_config(second.read_bytes()).warnings == ()
    assert main(["run", f"--write-config-to={tmp_path}/no/file"]) == 1
    assert started == []


def test_init_only(started: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The start that needs all rights, and nothing after it (A17.5)."""
    prepared: list[RunConfig] = []
    monkeypatch.setattr(run, "prepare", prepared.append)
    assert main(["run", "--init-only"]) == 0
    assert len(prepared) == 1
    assert started == []


@pytest.mark.parametrize("flag", ["--version", "--version=raw", "--version=true"])
def test_version(started: list[RunConfig], capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """It is printed before anything is read."""
    assert main(["run", "--config=/nowhere", flag]) == 0
    assert capsys.readouterr().out.startswith("pyproxy, version ")
    assert started == []
