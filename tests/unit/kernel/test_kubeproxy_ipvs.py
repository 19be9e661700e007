# SPDX-License-Identifier: Apache-2.0
"""Whose a virtual server of IPVS is, which sets are kube-proxy's, and what IPVS carries."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyproxy.kernel import kubeproxy_ipvs
from pyproxy.kernel.kubeproxy_ipvs import connections, is_kube_proxys, set_names

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
# as net/netfilter/ipvs/ip_vs_conn.c writes them
CONNECTIONS = """Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF40102 9C40 0A600001 0050 0AF40203 1F90 ESTABLISHED     899
TCP 0AF40102 9C41 0A600001 0050 0AF40203 1F90 TIME_WAIT       100
UDP 0AF40102 9C42 0A600001 0035 0AF40203 0035 UDP             299
TCP [fd00:0000::0002] 9C40 [fd00:0096::0001] 0050 [fd00:0000::0003] 1F90 ESTABLISHED 899
"""


@pytest.mark.parametrize(
    ("server", "is_ours"),
    [
        ({"addr": "10.96.0.1", "port": 80, "protocol": TCP}, True),
        ({"addr": "fd00:96:0::1", "port": 53, "protocol": UDP}, True),
        ({"addr": "192.0.2.7", "port": 30_080, "protocol": TCP}, True),
        ({"addr": "192.0.2.7", "port": 30_080, "protocol": UDP}, False),
        ({"addr": "192.0.2.7", "port": 80, "protocol": TCP}, False),
        ({"fwmark": 7}, False),
    ],
)
def test_whose_a_server_is(server: dict[str, object], is_ours: bool) -> None:
    """By an address of kube-ipvs0, or by a NodePort of its protocol; keepalived's have neither."""
    assert is_kube_proxys(server, {"10.96.0.1", "fd00:96::1"}, {(TCP, 30_080)}) is is_ours


def test_names_of_sets() -> None:
    """Of 17 sets in both families; the kernel's names have 31 letters, and so have kube-proxy's."""
    names = list(set_names())
    assert len(names) == len(set(names)) == 34
    assert {"KUBE-LOOP-BACK", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"} <= set(names)
    assert max(map(len, names)) == 31


def test_connections_that_would_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of TCP that are established, in both families; without IPVS there are none."""
    monkeypatch.setattr(kubeproxy_ipvs, "PROC_NET", tmp_path)
    assert connections() == 0
    (tmp_path / "ip_vs_conn").write_text(CONNECTIONS)
    assert connections() == 2
