# SPDX-License-Identifier: Apache-2.0
"""What KubeProxyConfiguration says of traffic (parity A7, A9.14, A19)."""

from __future__ import annotations

import pytest

from pyproxy.errors import ConfigError
from pyproxy.kube.addresses import parse_prefix
from pyproxy.kube.proxyconfig import parse_config
from pyproxy.plan.options import DetectLocalMode, Mode, Options

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def options(text: str) -> Options:
    """Return the options of a file with these fields."""
    return parse_config((HEAD + text).encode()).options


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("", Mode.IPTABLES),
        ("mode: ''", Mode.IPTABLES),
        ("mode: iptables", Mode.IPTABLES),
        ("mode: ipvs", Mode.IPTABLES),
        ("mode: nftables", Mode.NFTABLES),
    ],
)
def test_the_mode_is_whose_rules_count(text: str, mode: Mode) -> None:
    """All but nftables have the semantics of iptables; NodePorts differ by default (A7.3)."""
    found = options(text)
    assert found.mode is mode
    assert found.node_ports_on_primary is (mode is Mode.NFTABLES)


@pytest.mark.parametrize(
    ("text", "masquerades"),
    [
        ("iptables: {masqueradeAll: true}", True),
        ("nftables: {masqueradeAll: true}", False),
        ("mode: nftables\nnftables: {masqueradeAll: true}", True),
        ("mode: nftables\niptables: {masqueradeAll: true}", False),
        ("mode: ipvs\niptables: {masqueradeAll: true}", True),
    ],
)
def test_masquerade_all_is_the_modes_own(text: str, *, masquerades: bool) -> None:
    """The other mode's block is passed over."""
    assert options(text).masquerade_all is masquerades


@pytest.mark.parametrize(("mode", "bit"), [("iptables", 3), ("ipvs", 3), ("nftables", 5)], ids=str)
def test_the_masquerade_bit_is_the_modes_own(mode: str, bit: int) -> None:
    """That of ipvs is in the block of iptables (A19.9)."""
    text = f"mode: {mode}\niptables: {{masqueradeBit: 3}}\nnftables: {{masqueradeBit: 5}}"
    assert options(text).masquerade_bit == bit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 30.0),
        ("iptables: {syncPeriod: 10s}", 10.0),
        ("iptables: {syncPeriod: 2500ms}", 2.5),
        ("iptables: {syncPeriod: 1ms, minSyncPeriod: 1ms}", 1.0),
        ("nftables: {syncPeriod: 10s}", 30.0),
        ("mode: nftables\nnftables: {syncPeriod: 10s}", 10.0),
        ("mode: ipvs\nipvs: {syncPeriod: 10s}\niptables: {syncPeriod: 20s}", 10.0),
    ],
)
def test_the_sync_period_is_the_modes_own(text: str, seconds: float) -> None:
    """30 s by default (A19.6, A19.9); one that would be all we do is a second."""
    assert parse_config((HEAD + text).encode()).sync_period_s == seconds


@pytest.mark.parametrize("period", ["0s", '"0"', "0ms"])
def test_no_sync_period_is_the_default(period: str) -> None:
    """What kubeadm writes, and kube-proxy takes for nothing (A19.6)."""
    assert parse_config((HEAD + f"iptables: {{syncPeriod: {period}}}").encode()).sync_period_s == 30


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: '-1s' is less than 0s"),
        ("iptables: {minSyncPeriod: -1s}", "iptables.minSyncPeriod: '-1s' is less than 0s"),
        (
            "iptables: {minSyncPeriod: 10s, syncPeriod: 5s}",
            "iptables.minSyncPeriod: minSyncPeriod 10s is more than 5s of syncPeriod",
        ),
        (
            "iptables: {syncPeriod: 500ms}",
            "iptables.syncPeriod: minSyncPeriod 1s is more than 500ms of syncPeriod",
        ),
        ("configSyncPeriod: -1ns", "configSyncPeriod: '-1ns' is less than 0s"),
        ("mode: ipvs\nipvs: {udpTimeout: -1s}", "ipvs.udpTimeout: '-1s' is less than 0s"),
        (
            "mode: nftables\nnftables: {minSyncPeriod: 31s}",
            "nftables.minSyncPeriod: minSyncPeriod 31s is more than 30s of syncPeriod",
        ),
    ],
)
def test_periods_have_bounds(text: str, error: str) -> None:
    """Those of the mode that is selected (A19.9, A19.11)."""
    with pytest.raises(ConfigError) as caught:
        parse_config((HEAD + text).encode())
    assert caught.value.message == error


def test_periods_of_other_modes_do_not_count() -> None:
    """kube-proxy does not look at them."""
    text = "nftables: {syncPeriod: -1s}\nipvs: {syncPeriod: 1s, minSyncPeriod: 2s, udpTimeout: -1s}"
    assert parse_config((HEAD + text).encode()).sync_period_s == 30


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {bridgeInterface: b}",
            "detectLocal.interfaceNamePrefix",
        ),
    ],
)
def test_an_interface_mode_needs_a_name(text: str, error: str) -> None:
    """Without one nothing would ever be a pod (A19.11)."""
    with pytest.raises(ConfigError, match=rf"^{error}: detectLocalMode \w+ needs one"):
        options(text)


def test_a_feature_gate_takes_external_ips_away() -> None:
    """The one gate that has a meaning here (A2.2)."""
    assert options("").allow_service_external_ips
    assert not options("featureGates: {AllowServiceExternalIPs: false}").allow_service_external_ips
    assert options("featureGates: {Other: false}").allow_service_external_ips


def test_node_port_addresses() -> None:
    """CIDRs, or the word primary alone (A7.1, A7.2)."""
    found = options("nodePortAddresses: [10.0.0.0/8, 'fd00::/64']")
    assert found.node_port_addresses == (parse_prefix("10.0.0.0/8"), parse_prefix("fd00::/64"))
    assert not found.node_ports_on_primary
    assert options("nodePortAddresses: [primary]").node_ports_on_primary
    assert not options("mode: nftables\nnodePortAddresses: [0.0.0.0/0]").node_ports_on_primary


@pytest.mark.parametrize(
    ("text", "served"),
    [
        ("", True),
        ("iptables: {localhostNodePorts: true}", True),
        ("iptables: {localhostNodePorts: null}", True),
        ("iptables: {localhostNodePorts: false}", False),
    ],
)
def test_localhost_node_ports(text: str, *, served: bool) -> None:
    """On by default (A7.5)."""
    assert options(text).localhost_node_ports is served


@pytest.mark.parametrize(
    ("text", "mode", "interface"),
    [
        ("", DetectLocalMode.CLUSTER_CIDR, ""),
        ("detectLocalMode: NodeCIDR", DetectLocalMode.NODE_CIDR, ""),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            DetectLocalMode.BRIDGE_INTERFACE,
            "cni0",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
            DetectLocalMode.INTERFACE_NAME_PREFIX,
            "veth",
        ),
        ("detectLocal: {bridgeInterface: cni0}", DetectLocalMode.CLUSTER_CIDR, ""),
    ],
)
def test_how_pods_are_recognised(text: str, mode: DetectLocalMode, interface: str) -> None:
    """By the mode that is set, with the interface that belongs to it (A9.14)."""
    found = options(text)
    assert (found.detect_local_mode, found.local_interface) == (mode, interface)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("mode: userspace", "mode"),
        ("detectLocalMode: Guess", "detectLocalMode"),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", "nodePortAddresses"),
        ("nodePortAddresses: [10.0.0.0/33]", "nodePortAddresses"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, path: str) -> None:
    """With the path of the field."""
    with pytest.raises(ConfigError) as caught:
        options(text)
    assert caught.value.message.startswith(f"{path}: ")
