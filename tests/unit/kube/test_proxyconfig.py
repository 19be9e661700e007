# SPDX-License-Identifier: Apache-2.0
"""KubeProxyConfiguration is read as kube-proxy reads it (parity A19)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import ConfigError
from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.configfields import FIELDS
from pyproxy.kube.proxyconfig import (
    BindAddress,
    ProxyConfig,
    node_name,
    parse_bind_address,
    parse_cluster_cidrs,
    parse_config,
    read_config,
)
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.plan.options import Mode, Options

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

# What kubeadm and `kube-proxy --write-config-to` write: every field of v1alpha1.
FULL = (
    HEAD
    + """
bindAddress: "::"
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 10
  contentType: application/vnd.kubernetes.protobuf
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 5.5
clusterCIDR: 10.244.0.0/016,fd00:10:244::/56
configSyncPeriod: 15m0s
conntrack:
  maxPerCore: null
  min: 131072
  tcpBeLiberal: false
  tcpCloseWaitTimeout: 1h0m0s
  tcpEstablishedTimeout: 24h0m0s
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ClusterCIDR
enableProfiling: false
featureGates: {AllowServiceExternalIPs: true}
healthzBindAddress: 0.0.0.0:10300
hostnameOverride: " Node-One "
iptables:
  localhostNodePorts: true
  masqueradeAll: false
  masqueradeBit: 14
  minSyncPeriod: 1s
  syncPeriod: 30s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 30s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 5s
  format: text
  options:
    json: {infoBufferSize: "0"}
    text: {infoBufferSize: 64Ki, splitStream: true}
  verbosity: 2
  vmodule: [{filePattern: x, verbosity: 3}]
metricsBindAddress: "[::1]:10400"
mode: nftables
nftables: {masqueradeAll: false, masqueradeBit: 15, minSyncPeriod: 1s, syncPeriod: 30s}
nodePortAddresses: [primary]
oomScoreAdj: -999
portRange: ""
showHiddenMetricsForVersion: ""
windowsRunAsService: false
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""
)
EXPECTED = ProxyConfig(
    node_name="node-one",
    bind_address=bytes(16),
    cluster_cidrs=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:10:244::/56")),
    healthz_bind_address=BindAddress("0.0.0.0", 10300),
    metrics_bind_address=BindAddress("::1", 10400),
    kubeconfig=Path("/var/lib/kube-proxy/kubeconfig.conf"),
    options=Options("", mode=Mode.NFTABLES, masquerade_bit=15, node_ports_on_primary=True),
    proxy_mode="nftables",
    logging=LogSettings(verbosity=2, vmodule=(("x", 3),)),
)


def parse(text: str) -> ProxyConfig:
    """Parse the fields given, under the right head."""
    return parse_config((HEAD + text).encode())


def errors_of(text: str) -> list[str]:
    """Return all errors of a text that is refused, with kube-proxy's status (A18.11)."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode())
    assert caught.value.exit_status == 1
    return caught.value.message.split("; ")


def test_every_known_field_is_accepted() -> None:
    """A full file gives its record, as YAML and as JSON."""
    assert parse_config(FULL.encode()) == EXPECTED
    as_json = json.dumps(yaml.safe_load(FULL), indent="\t")
    assert parse_config(as_json.encode()) == EXPECTED


def test_the_full_file_holds_every_known_field() -> None:
    """The list of known fields and the full example are the same, path by path."""

    def paths(block: dict[str, object], prefix: str = "") -> set[str]:
        found = {prefix + name for name in block}
        for name, value in block.items():
            if isinstance(value, dict) and name != "featureGates":
                found |= paths(value, f"{prefix}{name}.")
        return found

    full = yaml.safe_load(FULL)
    full["logging"]["options"]["json"]["splitStream"] = False
    assert paths(full) == set(FIELDS)


def test_defaults() -> None:
    """An empty configuration has kube-proxy's defaults; so has one of nulls (A19.2)."""
    nulls = "".join(f"{path}: null\n" for path in FIELDS if "." not in path)
    for text in ("", nulls.replace("apiVersion: null\nkind: null\n", "")):
        assert parse(text) == ProxyConfig(
            "",
            bytes(4),
            (),
            BindAddress("0.0.0.0", 10256),
            BindAddress("127.0.0.1", 10249),
        )


def test_an_ipv6_bind_address_changes_the_defaults() -> None:
    """The servers then listen on IPv6 (A12.1, A13.1); empty means default (A19.10)."""
    found = parse('bindAddress: "fd00::1"\nhealthzBindAddress: ""\nmetricsBindAddress: ""')
    assert found.bind_address == parse_address("fd00::1")
    assert found.healthz_bind_address == BindAddress("::", 10256)
    assert found.metrics_bind_address == BindAddress("::1", 10249)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("nonsense: 1", "nonsense is unknown"),
        ("iptables: {masqueradeNone: true}", "iptables.masqueradeNone is unknown"),
        ("ConfigSyncPeriod: 5", "ConfigSyncPeriod is unknown"),
        ("mode: nftables\nmode: iptables", "mode stands twice"),
        ("ipvs: {scheduler: rr, scheduler: lc}", "ipvs.scheduler stands twice"),
        ("logging: {options: {text: {x: 1}}}", "logging.options.text.x is unknown"),
    ],
)
def test_unknown_and_duplicate_fields_are_warned_of(text: str, warning: str) -> None:
    """They are passed over with their path, so files for other releases work (A19.1)."""
    found = parse(text)
    assert [one for one in found.warnings if warning in one]
    assert found._replace(warnings=()) == parse("")


def test_duplicates_in_json_and_the_last_counts() -> None:
    """The last of two equal fields is the one that counts."""
    head = '"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration"'
    text = f'{{{head},"hostnameOverride":"a","hostnameOverride":"b"}}'
    found = parse_config(text.encode())
    assert found.node_name == "b"
    assert found.warnings == ("hostnameOverride stands twice: the last one counts",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bindAddress", "5"),
        ("bindAddressHardFail", '"true"'),
        ("oomScoreAdj", '"1"'),
        ("oomScoreAdj", "4294967296"),
        ("oomScoreAdj", "true"),
        ("oomScoreAdj", "-1001"),
        ("oomScoreAdj", "1001"),
        ("configSyncPeriod", "15"),
        ("configSyncPeriod", "15 minutes"),
        ("nodePortAddresses", "primary"),
        ("nodePortAddresses", "[1]"),
        ("featureGates", "{A: 1}"),
        ("featureGates", "[A]"),
        ("configSyncPeriod", "99999999h"),
        ("conntrack", "5"),
        ("conntrack", "{maxPerCore: 1.5}"),
        ("conntrack", "{maxPerCore: -1}"),
        ("conntrack", "{min: -1}"),
        ("conntrack", "{tcpEstablishedTimeout: -1ns}"),
        ("conntrack", "{tcpCloseWaitTimeout: -1h}"),
        ("conntrack", "{udpTimeout: 30}"),
        ("conntrack", "{udpStreamTimeout: 30sec}"),
        ("clientConnection", "{burst: -1}"),
        ("clientConnection", "{qps: 1e999}"),
        ("clientConnection", "{kubeconfig: [/a]}"),
        ("logging", "{options: []}"),
        ("logging", "{options: {text: {infoBufferSize: 1e999}}}"),
        ("logging", "{format: xml}"),
        ("logging", "{verbosity: -1}"),
        ("logging", "{vmodule: [a=1]}"),
        ("logging", "{vmodule: [{filePattern: 'a=b', verbosity: 1}]}"),
        ("logging", "{vmodule: [{filePattern: a}]}"),
        ("iptables", "{masqueradeBit: 32}"),
    ],
)
def test_a_wrong_type_is_fatal(field: str, value: str) -> None:
    """The message names the path and what would fit, also of fields not used yet."""
    (error,) = errors_of(f"{HEAD}{field}: {value}")
    assert error.startswith(field)
    assert " must be " in error


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("bindAddress: localhost", "bindAddress"),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR"),
        ("clusterCIDR: 10.0.0.0/8,10.1.0.0/16", "clusterCIDR"),
        ("clusterCIDR: 10.0.0.0/8,fd00::/8,fd01::/16", "clusterCIDR"),
        ("healthzBindAddress: localhost:80", "healthzBindAddress"),
        ("healthzBindAddress: 0.0.0.0:0", "healthzBindAddress"),
        ("metricsBindAddress: ':10249'", "metricsBindAddress"),
        ("metricsBindAddress: 127.0.0.1:65536", "metricsBindAddress"),
    ],
)
def test_a_wrong_value_is_fatal(text: str, path: str) -> None:
    """Values that are used are validated (A19.11)."""
    (error,) = errors_of(HEAD + text)
    assert error.startswith(f"{path}: ")


def test_all_errors_come_together() -> None:
    """An operator mends a file once."""
    errors = errors_of("kind: Foo\nbindAddress: x\nclusterCIDR: y\nconntrack: {min: z}")
    begins = [error.split(" ")[0].rstrip(":") for error in errors]
    assert sorted(begins) == ["apiVersion", "bindAddress", "clusterCIDR", "conntrack.min", "kind"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "- a",
        "a: [",
        "{",
        HEAD + "bindAddress: ::",
        HEAD + "---\n" + HEAD,
        "[" * 9999,
        "\x00",
    ],
)
def test_what_is_no_configuration(text: str) -> None:
    """Not YAML, not a mapping, another kind, two documents: one clear error."""
    assert errors_of(text)


def test_files(tmp_path: Path) -> None:
    """Errors of a file name it."""
    path = tmp_path / "config.conf"
    with pytest.raises(ConfigError, match=f"{path} cannot be read: No such file") as caught:
        read_config(path)
    assert caught.value.exit_status == 2
    path.write_text("kind: x")
    with pytest.raises(ConfigError, match=f"{path}: apiVersion must be") as caught:
        read_config(path)
    assert caught.value.exit_status == 1
    path.write_text(FULL)
    assert read_config(path) == EXPECTED
    with pytest.raises(ConfigError, match="directory"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:80", BindAddress("0.0.0.0", 80)),
        ("127.0.0.1", BindAddress("127.0.0.1", 7)),
        ("010.0.0.1:80", BindAddress("10.0.0.1", 80)),
        ("[::]:80", BindAddress("::", 80)),
        ("::1", BindAddress("::1", 7)),
        ("::1:80", BindAddress("::1:80", 7)),
        ("", None),
        ("80", None),
        (":80", None),
        ("[::1]", None),
        ("host:80", None),
        ("1.2.3.4:", None),
        ("1.2.3.4:x", None),
        ("1.2.3.4:-1", None),
    ],
)
def test_bind_addresses(text: str, expected: BindAddress | None) -> None:
    """A missing port is the default one; without an IP address it is refused (A19.10)."""
    if expected:
        assert parse_bind_address(text, 7) == expected
        return
    with pytest.raises(ValueError, match="is no IP:port"):
        parse_bind_address(text, 7)


def test_names_and_cidrs() -> None:
    """Node names are trimmed and in lower case (A16.1); no clusterCIDR is none."""
    assert node_name(" Node-1.Example\n") == "node-1.example"
    assert parse_cluster_cidrs("") == ()
    dual = parse_cluster_cidrs("fd00::/8,10.0.0.0/8")
    assert [one.length for one in dual] == [8, 8]


@given(st.text(alphabet="abkindv1: {}[]\n-\"'#,&*!", max_size=80))
def test_any_text_is_a_config_error(text: str) -> None:
    """No text gives another error than ConfigError."""
    with pytest.raises(ConfigError):
        parse_config(text.encode())
