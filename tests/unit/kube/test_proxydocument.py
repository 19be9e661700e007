# SPDX-License-Identifier: Apache-2.0
"""The effective configuration: defaults filled in as kube-proxy does (parity A19.2 to A19.8)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from pyproxy.kube.configwalk import walk
from pyproxy.kube.proxyconfig import SCHEMA, ProxyConfig, Settings, parse_config, settle
from pyproxy.kube.proxydocument import configz, to_yaml
from tests.unit.kube.kubeadm import CONFIG

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

# What kube-proxy writes for an empty file, by the table of the parity rows.
DEFAULT: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "bindAddress": "0.0.0.0",
    "bindAddressHardFail": False,
    "clientConnection": {
        "acceptContentTypes": "",
        "burst": 10,
        "contentType": "application/vnd.kubernetes.protobuf",
        "kubeconfig": "",
        "qps": 5,
    },
    "clusterCIDR": "",
    "configSyncPeriod": "15m0s",
    "conntrack": {
        "maxPerCore": 32768,
        "min": 131072,
        "tcpBeLiberal": False,
        "tcpCloseWaitTimeout": "1h0m0s",
        "tcpEstablishedTimeout": "24h0m0s",
        "udpStreamTimeout": "0s",
        "udpTimeout": "0s",
    },
    "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""},
    "detectLocalMode": "ClusterCIDR",
    "enableProfiling": False,
    "healthzBindAddress": "0.0.0.0:10256",
    "hostnameOverride": "",
    "iptables": {
        "localhostNodePorts": True,
        "masqueradeAll": False,
        "masqueradeBit": 14,
        "minSyncPeriod": "1s",
        "syncPeriod": "30s",
    },
    "ipvs": {
        "excludeCIDRs": None,
        "minSyncPeriod": "0s",
        "scheduler": "",
        "strictARP": False,
        "syncPeriod": "30s",
        "tcpFinTimeout": "0s",
        "tcpTimeout": "0s",
        "udpTimeout": "0s",
    },
    "logging": {
        "flushFrequency": "5s",
        "format": "text",
        "options": {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}},
        "verbosity": 0,
    },
    "metricsBindAddress": "127.0.0.1:10249",
    "mode": "iptables",
    "nftables": {
        "masqueradeAll": False,
        "masqueradeBit": 14,
        "minSyncPeriod": "1s",
        "syncPeriod": "30s",
    },
    "nodePortAddresses": None,
    "oomScoreAdj": -999,
    "portRange": "",
    "showHiddenMetricsForVersion": "",
    "winkernel": {
        "enableDSR": False,
        "forwardHealthCheckVip": False,
        "networkName": "",
        "rootHnsEndpointName": "",
        "sourceVip": "",
    },
}


def settled(text: str) -> Settings:
    """Return what a text with the right head comes to."""
    return settle(walk((HEAD + text).encode(), SCHEMA))


def test_an_empty_file_has_all_defaults() -> None:
    """Every field, with the value that kube-proxy has without one."""
    assert settled("").document == DEFAULT


@pytest.mark.parametrize("release", CONFIG)
def test_kubeadms_file_is_the_defaults(release: str) -> None:
    """Zeros, empty strings and nulls mean the defaults; two fields are kubeadm's own."""
    found = settle(walk(CONFIG[release].encode(), SCHEMA))
    client = {**DEFAULT["clientConnection"], "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf"}
    own = {"clusterCIDR": "10.244.0.0/16", "clientConnection": client}
    assert found.document == {**DEFAULT, **own}
    assert found.config.warnings == ()
    assert [line.partition(":")[0] for line in found.remarks] == ["nodePortAddresses is not set"]


@pytest.mark.parametrize("release", CONFIG)
def test_kubeadms_file_runs_as_the_defaults_do(release: str) -> None:
    """What the agent makes of it is what it makes of no file at all."""
    found = parse_config(CONFIG[release].encode())
    assert found.kubeconfig is not None
    assert [cidr.length for cidr in found.cluster_cidrs] == [16]
    assert found._replace(kubeconfig=None, cluster_cidrs=()) == ProxyConfig()


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("mode: nftables", "nodePortAddresses", ["primary"]),
        ("mode: nftables\nnodePortAddresses: [10.0.0.0/8]", "nodePortAddresses", ["10.0.0.0/8"]),
        ("bindAddress: '::'", "healthzBindAddress", "[::]:10256"),
        ("bindAddress: '::'", "metricsBindAddress", "[::1]:10249"),
        ("metricsBindAddress: 0.0.0.0", "metricsBindAddress", "0.0.0.0:10249"),
        ("hostnameOverride: ' Node '", "hostnameOverride", "node"),
        ("oomScoreAdj: 0", "oomScoreAdj", 0),
        ("featureGates: {A: true}", "featureGates", {"A": True}),
        ("configSyncPeriod: 90m", "configSyncPeriod", "1h30m0s"),
        ("windowsRunAsService: true", "windowsRunAsService", True),
    ],
)
def test_what_is_given_stays(text: str, path: str, expected: object) -> None:
    """An explicit zero of a pointer too (A19.4, A19.10)."""
    assert settled(text).document[path] == expected


def test_zero_of_what_is_a_pointer_counts() -> None:
    """Null is the default there, 0 is 0 (A19.4)."""
    found = settled(
        "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s}\n"
        "iptables: {masqueradeBit: 0, localhostNodePorts: false}\n"
        "logging: {flushFrequency: 1000000000, vmodule: [{filePattern: a, verbosity: 2}]}"
    ).document
    assert found["conntrack"] == DEFAULT["conntrack"] | {
        "maxPerCore": 0,
        "tcpEstablishedTimeout": "0s",
    }
    assert found["iptables"]["masqueradeBit"] == 0
    assert found["iptables"]["localhostNodePorts"] is False
    assert found["logging"]["flushFrequency"] == "1s"
    assert found["logging"]["vmodule"] == [{"filePattern": "a", "verbosity": 2}]


def test_a_written_file_is_read_back() -> None:
    """--write-config-to gives a file that comes to the same (A18.1)."""
    text = "mode: nftables\nhostnameOverride: n\nfeatureGates: {A: false}\nclusterCIDR: 10.0.0.0/8"
    first = settled(text)
    written = to_yaml(first.document)
    assert yaml.safe_load(written) == first.document
    again = settle(walk(written.encode(), SCHEMA))
    assert again.document == first.document
    assert again.config == first.config


def test_configz() -> None:
    """The group is the only key, and apiVersion and kind are inside (A13.5)."""
    assert json.loads(configz(settled("").document)) == {"kubeproxy.config.k8s.io": DEFAULT}
