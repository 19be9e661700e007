# SPDX-License-Identifier: Apache-2.0
"""KubeProxyConfiguration's `conntrack` and `clientConnection`: what they mean for pyproxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.kube.proxyconfig import ProxyConfig, parse_config
from pyproxy.tables import ConnectionTimeouts, Conntrack

DEFAULT = ConnectionTimeouts()
FIELDS = {
    "tcpEstablishedTimeout": "tcp_established",
    "tcpCloseWaitTimeout": "tcp_close_wait",
    "udpTimeout": "udp",
    "udpStreamTimeout": "udp_stream",
}


def parse(text: str) -> ProxyConfig:
    """Parse the fields given, under the right head."""
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    return parse_config((head + text).encode())


def test_defaults_are_kube_proxys() -> None:
    """24 h and 1 h are what kube-proxy sets (A19.4); for UDP it leaves the kernel's."""
    assert parse("").timeouts == ConnectionTimeouts()
    assert (DEFAULT.tcp_established, DEFAULT.tcp_close_wait) == (86_400, 3_600)


@pytest.mark.parametrize("field", FIELDS)
def test_a_timeout_is_taken_up(field: str) -> None:
    """Each field has its own timeout and leaves the others alone."""
    found = parse(f"conntrack: {{{field}: 1m30s}}")
    assert found.timeouts == DEFAULT._replace(**{FIELDS[field]: 90})
    assert found.warnings == ()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["0s", "null", '"0"'])
def test_no_timeout_leaves_it_as_it_is(field: str, value: str) -> None:
    """0 asks kube-proxy to leave the kernel alone, and pyproxy to keep its default (A19.4)."""
    assert parse(f"conntrack: {{{field}: {value}}}").timeouts == DEFAULT


def test_a_part_of_a_second_is_a_second() -> None:
    """Rounded down it would be 0, which means the default."""
    assert parse("conntrack: {udpTimeout: 1ms}").timeouts.udp == 1
    assert parse("conntrack: {udpTimeout: 10001ms}").timeouts.udp == 11


@pytest.mark.parametrize(("value", "shortened"), [("8760h", False), ("8760h0m0.1s", True)])
def test_what_kube_proxy_takes_is_no_error(value: str, shortened: bool) -> None:
    """A timeout that the programs can't count is shortened aloud."""
    found = parse(f"conntrack: {{tcpEstablishedTimeout: {value}}}")
    assert found.timeouts == DEFAULT._replace(tcp_established=365 * 86_400)
    expected = ("conntrack.tcpEstablishedTimeout is shortened to 8760h, the longest",)
    assert found.warnings == (expected if shortened else ())


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{}", Conntrack()),
        ("{maxPerCore: null, min: null, tcpEstablishedTimeout: null}", Conntrack()),
        ("{maxPerCore: 0, min: 0}", Conntrack(max_per_core=0, min=0)),
        ("{maxPerCore: 7, min: 8, tcpBeLiberal: true}", Conntrack(7, 8, tcp_be_liberal=True)),
        ("{tcpEstablishedTimeout: 0s}", Conntrack(tcp_established_timeout_s=0)),
        ("{tcpCloseWaitTimeout: 1m, udpTimeout: 1ms}", Conntrack(
            tcp_close_wait_timeout_s=60, udp_timeout_s=1)),
        ("{udpStreamTimeout: 2s, tcpEstablishedTimeout: 87600h}", Conntrack(
            udp_stream_timeout_s=2, tcp_established_timeout_s=87_600 * 3600)),
    ],
)  # fmt: skip
def test_what_the_kernel_is_given(block: str, expected: Conntrack) -> None:
    """Null is the default, 0 leaves the kernel alone, and nothing is shortened (A17, A19.4)."""
    assert parse(f"conntrack: {block}").conntrack == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ("clientConnection: null", None),
        ('clientConnection: {kubeconfig: ""}', None),
        ("clientConnection: {kubeconfig: null}", None),
        ("clientConnection: {kubeconfig: /etc/k.conf}", Path("/etc/k.conf")),
    ],
)
def test_the_kubeconfig(text: str, path: Path | None) -> None:
    """Where kubeadm names it; empty is in-cluster (A18.2, A19.3)."""
    assert parse(text).kubeconfig == path


@pytest.mark.parametrize(
    "field",
    [
        "acceptContentTypes: application/json",
        "burst: 0",
        "contentType: application/vnd.kubernetes.protobuf",
        "qps: 0.5",
    ],
)
def test_client_settings_without_meaning(field: str) -> None:
    """They are accepted as they are in kubeadm's file, without a word."""
    assert parse(f"clientConnection: {{{field}}}") == parse("")
