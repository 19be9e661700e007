# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's flags set the fields of its configuration, or are ignored beside one (A18)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.errors import ConfigError
from pyproxy.kube.proxyconfig import BindAddress, ProxyConfig, Settings
from pyproxy.kube.proxyflags import FLAGS, read_settings
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.plan.options import DetectLocalMode, Mode
from pyproxy.tables import Conntrack

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

# A18.2 to A18.8; those of Windows are not among them (A18.9)
ALL = """
bind-address bind-address-hard-fail boot-id-file cluster-cidr config-sync-period
conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal conntrack-tcp-timeout-close-wait
conntrack-tcp-timeout-established conntrack-udp-timeout conntrack-udp-timeout-stream
detect-local-mode feature-gates healthz-bind-address healthz-port hostname-override
iptables-localhost-nodeports iptables-masquerade-bit iptables-min-sync-period iptables-sync-period
ipvs-exclude-cidrs ipvs-min-sync-period ipvs-scheduler ipvs-strict-arp ipvs-sync-period
ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout kube-api-burst kube-api-content-type
kube-api-qps log-flush-frequency log-json-info-buffer-size log-json-split-stream
log-text-info-buffer-size log-text-split-stream logging-format machine-id-file masquerade-all
metrics-bind-address metrics-port nodeport-addresses oom-score-adj pod-bridge-interface
pod-interface-name-prefix profiling proxy-mode proxy-port-range show-hidden-metrics-for-version v
vmodule
"""


def by(**flags: str) -> Settings:
    """Return what flags come to without a file."""
    return read_settings(None, {name.replace("_", "-"): text for name, text in flags.items()})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A --config that sets a little of everything."""
    path = tmp_path / "config.conf"
    path.write_text(
        f"{HEAD}hostnameOverride: from-file\noomScoreAdj: -5\nnodePortAddresses: [primary]\n"
        "logging: {verbosity: 2, format: json}\n",
        encoding="utf-8",
    )
    return path


def test_all_flags_are_known() -> None:
    """Every flag of kube-proxy 1.30 to 1.36 that has a value."""
    assert sorted(FLAGS) == ALL.split()


def test_no_flags_are_the_defaults() -> None:
    """As an empty file."""
    assert by().config == ProxyConfig()


def test_flags_set_fields() -> None:
    """Each the one of its name (A18.2 to A18.7)."""
    found = by(
        hostname_override=" Node ", proxy_mode="nftables", bind_address="10.0.0.9",
        cluster_cidr="10.0.0.0/8,fd00::/64", nodeport_addresses="10.0.0.0/8, fd00::/64",
        masquerade_all="true", iptables_sync_period="10s", oom_score_adj="-7",
        conntrack_max_per_core="1", conntrack_min="2", conntrack_tcp_be_liberal="T",
        conntrack_tcp_timeout_established="3s", conntrack_tcp_timeout_close_wait="4s",
        conntrack_udp_timeout="5s", conntrack_udp_timeout_stream="6s",
        bind_address_hard_fail="true", feature_gates="AllowServiceExternalIPs=false",
    ).config  # fmt: skip
    assert found.node_name == "node"
    assert found.bind_address == bytes((10, 0, 0, 9))
    assert found.options.mode is Mode.NFTABLES
    assert [cidr.length for cidr in found.cluster_cidrs] == [8, 64]
    assert [cidr.length for cidr in found.options.node_port_addresses] == [8, 64]
    assert found.options.masquerade_all
    assert not found.options.allow_service_external_ips
    assert found.sync_period_s == 10
    assert found.conntrack == Conntrack(1, 2, True, 3, 4, 5, 6)
    assert found.oom_score_adj == -7
    assert found.bind_address_hard_fail


def test_pods_by_interface() -> None:
    """The mode and its name (A9.14)."""
    found = by(detect_local_mode="BridgeInterface", pod_bridge_interface="cni0").config.options
    assert (found.detect_local_mode, found.local_interface) == (
        DetectLocalMode.BRIDGE_INTERFACE,
        "cni0",
    )
    found = by(
        detect_local_mode="InterfaceNamePrefix", pod_interface_name_prefix="veth"
    ).config.options
    assert found.local_interface == "veth"


@pytest.mark.parametrize(
    ("flags", "healthz"),
    [
        ({}, BindAddress("0.0.0.0", 10256)),
        ({"healthz_bind_address": ""}, None),
        ({"healthz_bind_address": "127.0.0.1"}, BindAddress("127.0.0.1", 10256)),
        ({"healthz_port": "0"}, None),
        ({"healthz_port": "99"}, BindAddress("0.0.0.0", 10256)),
        ({"healthz_port": "99", "healthz_bind_address": "::1"}, BindAddress("::1", 99)),
        ({"healthz_port": "99", "healthz_bind_address": "[::1]:5"}, BindAddress("::1", 5)),
        ({"healthz_port": "0", "healthz_bind_address": "[::1]:5"}, None),
    ],
)
def test_a_port_of_its_own(flags: dict[str, str], healthz: BindAddress | None) -> None:
    """It counts where the address has none; 0 and an empty address are no server (A18.3)."""
    assert by(**flags).config.healthz_bind_address == healthz
    metrics = {name.replace("healthz", "metrics"): text for name, text in flags.items()}
    other = by(**metrics).config.metrics_bind_address
    assert (other is None) is (healthz is None)


def test_no_server_by_a_flag_is_written_as_none() -> None:
    """The effective configuration says what is in force."""
    assert by(metrics_port="0").document["metricsBindAddress"] == ""


def test_logging_flags() -> None:
    """The format, and how much by module (A18.8)."""
    found = by(v="4", vmodule="sync=5,cov*=0", logging_format="json").config.logging
    assert found == LogSettings(json=True, verbosity=4, vmodule=(("sync", 5), ("cov*", 0)))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"ipvs_scheduler": "rr"}, "--ipvs-scheduler has no meaning here: pyproxy has no IPVS"),
        ({"kube_api_qps": "50"}, "--kube-api-qps has no meaning here: the agent sends"),
        ({"iptables_min_sync_period": "5s"}, "--iptables-min-sync-period has no meaning here"),
        ({"boot_id_file": "/x"}, "--boot-id-file has no meaning here: it had none"),
        ({"profiling": "true"}, "--profiling has no meaning here: only a Go program"),
        ({"proxy_port_range": "1-2"}, "--proxy-port-range has no meaning here"),
    ],
)
def test_flags_without_meaning_have_one_line(flags: dict[str, str], said: str) -> None:
    """They are named as flags (A18.5)."""
    lines = [line for line in by(**flags).remarks if not line.startswith("nodePortAddresses")]
    (line,) = lines
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"masquerade_all": "maybe"}, ["--masquerade-all: 'maybe' is neither true nor false"]),
        ({"oom_score_adj": "1001"}, ["--oom-score-adj must be an integer from -1000 to 1000"]),
        ({"config_sync_period": "15"}, ["--config-sync-period must be a duration such as 30s"]),
        ({"iptables_masquerade_bit": "x"}, ["--iptables-masquerade-bit: "]),
        ({"vmodule": "a"}, ["--vmodule: 'a' is not NAME=VALUE"]),
        ({"proxy_mode": "ebpf", "bind_address": "x"}, ["--bind-address: ", "--proxy-mode: "]),
        ({"v": "-1", "cluster_cidr": "1"}, ["--v must be an integer"]),
        ({"healthz_port": "x"}, ["--healthz-port: 'x' is no port"]),
        ({"iptables_sync_period": "-1s"}, ["--iptables-sync-period: '-1s' is less than 0s"]),
    ],
)
def test_wrong_flags_are_wrong_usage(flags: dict[str, str], said: list[str]) -> None:
    """All of them together, by their names."""
    with pytest.raises(ConfigError) as caught:
        by(**flags)
    assert caught.value.exit_status == 2
    assert caught.value.remedy
    errors = sorted(caught.value.message.split("; "))
    assert len(errors) == len(said)
    assert all(error.startswith(begin) for error, begin in zip(errors, said, strict=True))


def test_the_file_rules(file: Path) -> None:
    """But for the name and what is logged; each flag that is ignored is named (A18.10)."""
    flags = {"hostname-override": "Flag", "v": "4", "oom-score-adj": "9", "proxy-mode": "nftables"}
    found = read_settings(file, flags)
    assert found.config.node_name == "flag"
    assert found.document["hostnameOverride"] == "flag"
    assert found.config.oom_score_adj == -5
    assert found.config.options.mode is Mode.IPTABLES
    assert found.config.logging == LogSettings(json=True, verbosity=4)
    assert found.remarks == (
        "--oom-score-adj is ignored: --config rules",
        "--proxy-mode is ignored: --config rules",
    )


def test_a_logging_flag_beside_a_file_is_looked_at(file: Path) -> None:
    """A wrong one is wrong usage; one that is ignored is not read at all."""
    with pytest.raises(ConfigError, match="--v must be") as caught:
        read_settings(file, {"v": "-1"})
    assert caught.value.exit_status == 2
    assert read_settings(file, {"oom-score-adj": "x"}).config.oom_score_adj == -5
