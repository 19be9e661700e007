# SPDX-License-Identifier: Apache-2.0
"""scripts/vm/smoke.sh: when it calls a cluster well, and what it says when it does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.vm.machine import ROOT, Machine

KUBE_PROXY = ("iptables", "ipvs", "nftables")
READY = "control Ready\nworker1 Ready\nworker2 Ready"
ADDRESSES = ("192.168.56.11", "fd00:56::11/64")


def cluster(folder: Path, proxy: str) -> Machine:
    """Make a control plane of three nodes that are ready, with what PROXY has."""
    machine = Machine(folder, proxy=proxy)
    # a worker's settings are a control plane's, and take less to make
    (machine.root / "etc/pyproxy-vm").mkdir()
    machine.write("etc/pyproxy-vm/settings", f"PROXY={proxy} KUBERNETES=1.34.2\n")
    machine.tell("nodes", READY)
    machine.tell("mode", proxy)
    if proxy == "pyproxy":
        machine.make_venv()
        machine.tell("daemonsets", "daemonset.apps/pyproxy")
    if proxy in KUBE_PROXY:
        machine.tell("daemonsets", "daemonset.apps/kube-proxy")
    if proxy == "none":
        machine.tell("no-services", "")
    # nothing of the environment but what the Vagrantfile's trigger gives
    machine.env = {"WORKERS": "2", "VM_WAIT_S": "0"}
    return machine


def refusal(machine: Machine, **env: str) -> str:
    """Return why the smoke test calls the cluster not well."""
    done = machine.run("smoke", **env)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("proxy", ["pyproxy", *KUBE_PROXY, "none"])
def test_a_cluster_as_asked_for_is_well(tmp_path: Path, proxy: str) -> None:
    """All nodes are ready and the proxy is the one that was asked for."""
    done = cluster(tmp_path, proxy).run("smoke")
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (0, [f"PROXY={proxy}: well"])


def test_pyproxy_is_asked_on_every_node_and_tested_end_to_end(tmp_path: Path) -> None:
    """`pyproxy status` of each pod, then the tests that run in a real cluster."""
    machine = cluster(tmp_path, "pyproxy")
    assert machine.run("smoke").returncode == 0
    calls = machine.told("calls").splitlines()
    assert [call.split(" exec ")[1] for call in calls if " exec " in call] == [
        "pod/pyproxy-a -- pyproxy status",
        "pod/pyproxy-b -- pyproxy status",
    ]
    kubeconfig = machine.root / "etc/kubernetes/admin.conf"
    assert (
        f"python -m pytest -q -p no:cacheprovider tests/e2e --kubeconfig {kubeconfig}"
        " --image python:3.12-alpine"
    ) in calls


def test_a_failed_end_to_end_test_fails(tmp_path: Path) -> None:
    """The exit status of the tests is that of the smoke test."""
    machine = cluster(tmp_path, "pyproxy")
    machine.tell("fails", "python *")
    assert machine.run("smoke").returncode == 1


def test_an_agent_that_is_not_well_fails(tmp_path: Path) -> None:
    """One node whose status is not healthy is enough, and is named."""
    machine = cluster(tmp_path, "pyproxy")
    machine.tell("fails", "*pod/pyproxy-b -- pyproxy status")
    done = machine.run("smoke")
    assert done.returncode == 1
    assert "error: pyproxy status: not within 0 s: pod/pyproxy-a:" in done.stderr
    assert done.stderr.endswith("pod/pyproxy-b:\nkubectl fails\n")


def test_a_node_that_is_missing_fails(tmp_path: Path) -> None:
    """Nodes that are not ready or have not joined are waited for, and counted in the message."""
    machine = cluster(tmp_path, "ipvs")
    machine.tell("nodes", "control Ready\nworker1 NotReady")
    assert "1 of 3 nodes are ready (kubectl get nodes)" in refusal(machine)
    # by hand nobody says how many there are to be: all that have joined
    assert "1 of 2 nodes are ready (kubectl get nodes)" in refusal(machine, WORKERS="")


def test_another_mode_fails(tmp_path: Path) -> None:
    """Because kube-proxy falls back by itself, what it says of its mode counts."""
    machine = cluster(tmp_path, "ipvs")
    machine.tell("mode", "iptables")
    assert refusal(machine) == "error: kube-proxy runs in mode iptables, and PROXY=ipvs"


@pytest.mark.parametrize("proxy", ["pyproxy", *KUBE_PROXY])
def test_a_service_that_does_not_answer_fails(tmp_path: Path, proxy: str) -> None:
    """A proxy that runs and serves nothing is not well."""
    machine = cluster(tmp_path, proxy)
    machine.tell("no-services", "")
    assert "the service at 10.96.0.1: not within 0 s: curl: (28)" in refusal(machine)


def test_a_service_that_answers_without_a_proxy_fails(tmp_path: Path) -> None:
    """With none, whatever serves there would be measured as none."""
    machine = cluster(tmp_path, "none")
    (machine.fake / "no-services").unlink()
    assert refusal(machine) == "error: the service at 10.96.0.1 answers, with PROXY=none"


@pytest.mark.parametrize(
    ("proxy", "other"), [("pyproxy", "kube-proxy"), ("ipvs", "pyproxy"), ("none", "kube-proxy")]
)
def test_two_proxies_fail(tmp_path: Path, proxy: str, other: str) -> None:
    """A proxy that was not asked for must not be there."""
    machine = cluster(tmp_path, proxy)
    machine.tell("daemonsets", f"daemonset.apps/{other}")
    assert refusal(machine) == f"error: there is a DaemonSet {other}, with PROXY={proxy}"


def test_elsewhere_than_on_the_control_plane_it_says_so(tmp_path: Path) -> None:
    """Without a cluster's settings there is nothing to test."""
    message = refusal(Machine(tmp_path))
    assert message.endswith("is missing: run this on the control plane (vagrant ssh control)")


def address_in_namespace(device_has: str, times: int) -> subprocess.CompletedProcess[str]:
    """Run address.sh in a network namespace of its own; return it with the device's addresses."""
    script = ROOT / "scripts/vm/address.sh"
    commands = [
        "ip link add eth1 type veth peer name other",
        f"ip address add {device_has}/24 dev eth1",
        "ip link set other up && ip link set eth1 up",
        *[f"{script} {' '.join(ADDRESSES)}"] * times,
        "ip -o -6 address show dev eth1 scope global",
    ]
    return subprocess.run(
        ["unshare", "--net", "sh", "-euc", "\n".join(commands)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VM_PAUSE_S": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_second_family_is_given_once() -> None:
    """The device with the IPv4 address has the IPv6 one too, usable at once, however often."""
    done = address_in_namespace(ADDRESSES[0], times=2)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert f"inet6 {ADDRESSES[1]} scope global" in line
    assert "tentative" not in line


def test_a_device_that_does_not_come_is_named() -> None:
    """Without the IPv4 address the unit fails, and says what is missing."""
    done = address_in_namespace("192.168.56.1", times=1)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no device has 192.168.56.11: ")
