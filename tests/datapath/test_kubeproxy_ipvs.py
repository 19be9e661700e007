# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy's ipvs mode leaves goes, and nothing of keepalived's or anybody else's.

Debian's kernel has IPVS, not every kernel of the tests has: there its other things go.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel import kubeproxy, kubeproxy_ipvs
from tests.lab import netns

pytestmark = pytest.mark.kernel

DEVICE = """
ip link add name kube-ipvs0 type bridge
ip addr add 10.96.0.1/32 dev kube-ipvs0
ip addr add fd00:96::1/128 dev kube-ipvs0
"""
SETS = """
ipset create KUBE-CLUSTER-IP hash:ip,port
ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
ipset add KUBE-NODE-PORT-TCP 30080
ipset create KUBE-6-NODE-PORT-LOCAL-SCTP-HAS hash:ip,port family inet6
ipset create KUBE-6-NODE-PORT-SCTP-HASH hash:ip,port family inet6
ipset add KUBE-6-NODE-PORT-SCTP-HASH fd00::7,sctp:30090
ipset create KUBE-SRC-OTHERS hash:ip
"""
THEIRS = ["-A -t 192.0.2.7:80 -s rr", "-A -u 192.0.2.7:30080 -s rr", "-A -f 7 -s rr"]
OURS = [
    "-A -t 10.96.0.1:80 -s rr",
    "-A -t 192.0.2.7:30080 -s rr",
    "-A -t [fd00:96::1]:80 -s rr",
    "--add-service --sctp-service [fd00::7]:30090 -s rr",
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A network namespace of the test's own."""
    path = tmp_path / "netns"
    netns.create(path, {})
    try:
        yield path
    finally:
        netns.unmount(path)


def run(node: Path, command: str) -> str:
    """Run a command there."""
    argv = ["nsenter", f"--net={node}", *command.split()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def set_all(node: Path) -> bool:
    """Make what kube-proxy makes, and others do; return whether the kernel has IPVS."""
    for command in (DEVICE + SETS).strip().splitlines():
        run(node, command)
    subprocess.run(["modprobe", "-q", "ip_vs"], check=False)
    has_ipvs = netns.inside(node, lambda: Path("/proc/thread-self/net/ip_vs").exists())
    for command in (*THEIRS, *OURS) if has_ipvs else ():
        run(node, f"ipvsadm {command}")
    return has_ipvs


def test_what_ipvs_mode_leaves_goes(node: Path) -> None:
    """Virtual servers by the addresses of its device and by its NodePorts; its device and sets."""
    has_ipvs = set_all(node)
    assert netns.inside(node, kubeproxy.is_there)
    found = netns.inside(node, kubeproxy.remove)
    servers = [f"{len(OURS)} virtual servers of IPVS"] if has_ipvs else []
    assert found.removed == [*servers, "the device kube-ipvs0", "4 sets of ipset"]
    assert (found.kept, found.failed) == ([], [])
    assert run(node, "ipset list -n").split() == ["KUBE-SRC-OTHERS"]
    if has_ipvs:
        assert sorted(run(node, "ipvsadm -S -n").splitlines()) == sorted(THEIRS)
    assert not netns.inside(node, kubeproxy.is_there)
    assert not any(netns.inside(node, kubeproxy.remove))


def test_sets_that_rules_use_are_named(node: Path) -> None:
    """They cannot be removed, and those rules are not kube-proxy's."""
    run(node, "ipset create KUBE-CLUSTER-IP hash:ip,port")
    run(node, "iptables -A OUTPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT")
    found = netns.inside(node, kubeproxy.remove)
    assert found.failed == ["the set KUBE-CLUSTER-IP: rules use it; remove those first"]


def test_servers_without_the_device_are_nobodys(node: Path) -> None:
    """They may be keepalived's: nothing tells whose they are."""
    assert netns.inside(node, kubeproxy_ipvs.remove_servers) == 0
    assert netns.inside(node, kubeproxy_ipvs.connections) == 0
    assert not netns.inside(node, kubeproxy_ipvs.remove_device)
