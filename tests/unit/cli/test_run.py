# SPDX-License-Identifier: Apache-2.0
"""Flags and the file into one RunConfig, as kube-proxy weighs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyproxy.agent.config import RunConfig
from pyproxy.cli.run import choose
from pyproxy.errors import ConfigError

FLAGS: dict[str, Any] = {
    "config": None,
    "manifests": Path("/manifests"),
    "kubeconfig": None,
    "hostname_override": None,
    "cluster_cidr": None,
    "nodeport_addresses": None,
    "healthz_bind_address": None,
    "metrics_bind_address": None,
    "devices": None,
    "socket_translation": None,
    "pyproxy_config": None,
    "cgroup_root": Path("/sys/fs/cgroup"),
    "bpffs_root": Path("/sys/fs/bpf/pyproxy"),
    "run_dir": Path("/run/pyproxy"),
    "cache_dir": Path("/var/cache/pyproxy"),
}

FILE = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: From-File
clusterCIDR: 10.0.0.0/8
healthzBindAddress: 127.0.0.1:1
"""


def config_from(flags: dict[str, Any]) -> RunConfig:
    """Return what an agent would run with."""
    return choose(flags).config


def test_defaults_are_kube_proxys() -> None:
    """Health on 10256, metrics on loopback 10249, the name from the host."""
    config = config_from(FLAGS)
    assert config.healthz_bind_address == ("0.0.0.0", 10256)
    assert config.metrics_bind_address == ("127.0.0.1", 10249)
    assert config.options.node_name == config.options.node_name.strip().lower() != ""


def test_flags_count_without_a_file() -> None:
    """Each flag has its effect; an empty address is no server."""
    config = config_from(FLAGS | {
        "hostname_override": " Node-1 ", "cluster_cidr": "10.0.0.0/8,fd00::/64",
        "healthz_bind_address": "", "metrics_bind_address": "[::1]:9", "devices": "eth*, cni0,",
    })  # fmt: skip
    assert config.options.node_name == "node-1"
    assert [prefix.length for prefix in config.options.local_cidrs] == [8, 64]
    assert config.healthz_bind_address is None
    assert config.metrics_bind_address == ("::1", 9)
    assert config.devices == ("eth*", "cni0")


@pytest.mark.parametrize(
    ("flag", "lengths", "primary"),
    [("10.0.0.0/8, fd00::/64", [8, 64], False), ("primary", [], True), ("", [], False)],
)
def test_node_ports_are_served_where_a_flag_says(
    flag: str, lengths: list[int], *, primary: bool
) -> None:
    """CIDRs, the Node's own addresses, or all there are (parity A7)."""
    options = config_from(FLAGS | {"nodeport_addresses": flag}).options
    assert [prefix.length for prefix in options.node_port_addresses] == lengths
    assert options.node_ports_on_primary is primary


@pytest.mark.parametrize(
    ("text", "expected"), [("10.0.0.1", bytes((10, 0, 0, 1))), ("0.0.0.0", b""), ('"::"', b"")]
)
def test_bind_address_stands_for_the_node(tmp_path: Path, text: str, expected: bytes) -> None:
    """It binds no socket, but is the node's IP; all zeros are no address (parity A16.2, A16.3)."""
    file = tmp_path / "config.yaml"
    file.write_text(f"{FILE}bindAddress: {text}\n", encoding="utf-8")
    assert choose(FLAGS | {"config": file}).config.options.bind_address == expected


def test_the_file_rules_but_for_the_name(tmp_path: Path) -> None:
    """Flags that kube-proxy ignores beside --config are ignored aloud (parity A18.10)."""
    file = tmp_path / "config.yaml"
    file.write_text(FILE, encoding="utf-8")
    flags = FLAGS | {"config": file, "cluster_cidr": "192.168.0.0/16"}
    config = config_from(flags)
    assert config.options.node_name == "from-file"
    assert config.options.local_cidrs[0].length == 8
    assert config.healthz_bind_address == ("127.0.0.1", 1)
    assert "--cluster-cidr is ignored: --config rules" in choose(flags).remarks
    assert config_from(flags | {"hostname_override": "flag"}).options.node_name == "flag"


@pytest.mark.parametrize("hard", [True, False])
def test_an_address_that_cannot_be_had_may_end_the_agent(tmp_path: Path, *, hard: bool) -> None:
    """It is the field bindAddressHardFail (parity A12.7)."""
    file = tmp_path / "config.yaml"
    file.write_text(f"{FILE}bindAddressHardFail: {str(hard).lower()}\n", encoding="utf-8")
    assert config_from(FLAGS | {"config": file}).bind_address_hard_fail is hard


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("kubeconfig", Path("/kubeconfig")),
        ("cluster_cidr", "10.0.0.0/8,11.0.0.0/8"),
        ("healthz_bind_address", "0.0.0.0:99999"),
        ("metrics_bind_address", "here"),
        ("hostname_override", ""),
        ("nodeport_addresses", "primary,10.0.0.0/8"),
        ("config", Path("/nowhere")),
        ("pyproxy_config", Path("/nowhere")),
    ],
)
def test_what_makes_no_sense_is_refused(flag: str, value: object) -> None:
    """With a remedy."""
    with pytest.raises(ConfigError) as caught:
        config_from(FLAGS | {flag: value})
    assert caught.value.remedy
