# SPDX-License-Identifier: Apache-2.0
"""One line on what is accepted and has no meaning, and kube-proxy's warnings (A19.12)."""

from __future__ import annotations

import pytest

from pyproxy.kube.configfields import FIELDS
from pyproxy.kube.configwalk import walk
from pyproxy.kube.proxyconfig import SCHEMA, settle
from pyproxy.kube.proxyremarks import IN_VAIN

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
QUIET = "nodePortAddresses: [primary]\n"


def said(text: str) -> tuple[str, ...]:
    """Return the lines on a text that serves NodePorts on the Node's addresses."""
    return settle(walk((HEAD + QUIET + text).encode(), SCHEMA)).remarks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "configSyncPeriod: 15m",
        "configSyncPeriod: 0s",
        "iptables: {minSyncPeriod: 1000ms, syncPeriod: 5s}",
        "nftables: {masqueradeBit: 14}",
        "clientConnection: {qps: 5, burst: 10}",
        "clientConnection: {contentType: application/vnd.kubernetes.protobuf}",
        "logging: {flushFrequency: 5000000000}",
        "featureGates: {AllowServiceExternalIPs: false}",
        "ipvs: {syncPeriod: 30s, scheduler: ''}",
        "mode: ipvs\nipvs: {syncPeriod: 5s}\niptables: {masqueradeAll: true}",
        "winkernel: {enableDSR: false}",
        "oomScoreAdj: 7\nconntrack: {maxPerCore: 1, min: 2, tcpBeLiberal: true}",
        "bindAddressHardFail: true",
        "clusterCIDR: 10.0.0.0/8,fd00::/8",
    ],
)
def test_defaults_and_what_is_used_need_no_word(text: str) -> None:
    """However they are written; ipvs itself is worth one."""
    assert [line for line in said(text) if not line.startswith("mode ipvs")] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("configSyncPeriod: 1m", "configSyncPeriod has no meaning here: objects are watched"),
        ("iptables: {minSyncPeriod: 2s}", "iptables.minSyncPeriod has no meaning here: every"),
        ("enableProfiling: true", "enableProfiling has no meaning here: only a Go program"),
        ("portRange: 1-2", "portRange has no meaning here: no port is taken"),
        ("windowsRunAsService: true", "windowsRunAsService has no meaning here: it is for W"),
        ("showHiddenMetricsForVersion: '1.2'", "showHiddenMetricsForVersion has no meaning"),
        (
            "clientConnection: {qps: 50, burst: 100}",
            "clientConnection.qps, clientConnection.burst have no meaning here: the agent sends",
        ),
        (
            "winkernel: {sourceVip: a, networkName: b}",
            "winkernel.sourceVip, winkernel.networkName have no meaning here: it is for Windows",
        ),
        ("nftables: {masqueradeAll: true}", "nftables.masqueradeAll has no meaning here: mode is"),
        (
            "mode: nftables\niptables: {localhostNodePorts: false}",
            "iptables.localhostNodePorts has no meaning here: mode is nftables",
        ),
        ("featureGates: {B: true, A: false}", "featureGates A, B have no meaning here: pyproxy"),
        ("mode: ipvs", "mode ipvs is served as iptables: pyproxy has no IPVS"),
        ("mode: ipvs\nipvs: {scheduler: rr}", "ipvs.scheduler has no meaning here: pyproxy has"),
        ("logging: {options: {text: {splitStream: true}}}", "logging.options.text.splitStream"),
        ("clusterCIDR: fd00::/8\nbindAddress: 10.0.0.1", "bindAddress is of IPv4 and clusterCIDR"),
        (
            "clusterCIDR: 10.0.0.0/8\nhealthzBindAddress: '[::]:1'",
            "healthzBindAddress [::]:1 is of IPv6 and clusterCIDR is not",
        ),
    ],
)
def test_one_line_says_why(text: str, line: str) -> None:
    """With the reason, and several fields together where it is one."""
    assert [each for each in said(text) if each.startswith(line)]
    assert len([each for each in said(text) if "mode ipvs" not in each]) <= 1


def test_every_field_is_used_or_has_a_reason() -> None:
    """No value of a field is passed over in silence: this is the list of those that are used."""
    used = set(FIELDS) - set(IN_VAIN)
    blocks = {path.rpartition(".")[0] for path in FIELDS}
    assert used - blocks == {
        "apiVersion", "kind", "bindAddress", "bindAddressHardFail", "clusterCIDR",
        "clientConnection.kubeconfig", "conntrack.maxPerCore", "conntrack.min",
        "conntrack.tcpBeLiberal", "conntrack.tcpCloseWaitTimeout",
        "conntrack.tcpEstablishedTimeout", "conntrack.udpStreamTimeout", "conntrack.udpTimeout",
        "detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix", "detectLocalMode",
        "featureGates", "healthzBindAddress", "hostnameOverride",
        "iptables.localhostNodePorts", "iptables.masqueradeAll", "iptables.masqueradeBit",
        "iptables.syncPeriod", "ipvs.syncPeriod", "logging.format", "logging.verbosity",
        "logging.vmodule", "metricsBindAddress", "mode", "nftables.masqueradeAll",
        "nftables.masqueradeBit", "nftables.syncPeriod", "nodePortAddresses", "oomScoreAdj",
    }  # fmt: skip


def test_node_ports_everywhere_are_warned_of() -> None:
    """As checkBadConfig does: unset, or of one family in a dual-stack cluster."""
    (line,) = settle(walk(HEAD.encode(), SCHEMA)).remarks
    assert line.startswith("nodePortAddresses is not set")
    assert settle(walk(f"{HEAD}mode: nftables".encode(), SCHEMA)).remarks == ()
    both = "clusterCIDR: 10.0.0.0/8,fd00::/8\nnodePortAddresses: [10.0.0.0/8]"
    (line,) = settle(walk((HEAD + both).encode(), SCHEMA)).remarks
    assert line.endswith("NodePorts are served on all IPv6 addresses of the node")
