# SPDX-License-Identifier: Apache-2.0
"""What scripts/vm does to a machine: once; a second time nothing, after a failure the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
import yaml

from pyproxy.kube.proxyconfig import parse_config
from tests.vm.machine import Machine

CONTROL = ("node", "image", "control", "proxy")
WORKER = ("node", "image", "worker")
PROXIES = ("pyproxy", "iptables", "ipvs", "nftables", "none")
KUBE_PROXY = ("iptables", "ipvs", "nftables")
# what says how things are to be, and changes nothing that is so
DECLARED = ("kubectl --kubeconfig {root}/etc/kubernetes/admin.conf apply ",)


class Provisioned(NamedTuple):
    """A control plane, and what was called to make it."""

    machine: Machine
    calls: list[str]


Control: TypeAlias = Callable[[str], Provisioned]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Control:
    """Give the control plane with a PROXY, provisioned once; tests leave it as it is."""

    @cache
    def make(proxy: str) -> Provisioned:
        machine = Machine(tmp_path_factory.mktemp(proxy), proxy=proxy)
        return Provisioned(machine, machine.provision(*CONTROL))

    return make


def documents(machine: Machine) -> dict[str, Any]:
    """Return what kubeadm was given, by kind."""
    found = yaml.safe_load_all(machine.read("etc/pyproxy-vm/kubeadm.yaml"))
    return {each["kind"]: each for each in found}


def arguments(container: Any) -> list[str]:
    """Return the words that a container is run with."""
    return [*container["command"], *container.get("args", ())]


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_second_provisioning_changes_nothing(control: Control, proxy: str) -> None:
    """Every file stays the one it was, and nothing is called but `kubectl apply`, of the same."""
    machine, calls = control(proxy)
    assert len(calls) > 10
    files, applied = machine.files(), machine.told("applied.yaml")
    again = machine.provision(*CONTROL)
    declared = tuple(each.format(root=machine.root) for each in DECLARED)
    assert [call for call in again if not call.startswith(declared)] == []
    assert len(again) == (2 if proxy == "pyproxy" else 1)
    assert machine.files() == files
    assert machine.told("applied.yaml") == applied


def test_a_worker_is_provisioned_once(tmp_path: Path) -> None:
    """A worker joins, and a second provisioning of it changes nothing."""
    machine = Machine(tmp_path, number=2)
    assert f"kubeadm join --config {machine.root}/etc/pyproxy-vm/kubeadm.yaml" in machine.provision(
        *WORKER
    )
    files = machine.files()
    assert machine.provision(*WORKER) == []
    assert machine.files() == files
    join = documents(machine)["JoinConfiguration"]
    assert join["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "192.168.56.10:6443",
        "token": "abcdef.0123456789abcdef",
        "unsafeSkipCAVerification": True,
    }
    assert node_ip(join) == "192.168.56.12,fd00:56::12"


def node_ip(configuration: Any) -> str:
    """Return the addresses that kubelet is told."""
    registration = configuration["nodeRegistration"]
    assert registration["criSocket"] == "unix:///run/containerd/containerd.sock"
    (argument,) = registration["kubeletExtraArgs"]
    assert argument["name"] == "node-ip"
    return str(argument["value"])


@pytest.mark.parametrize(
    "step",
    [
        "modprobe *",
        "systemctl restart *.service",
        "systemctl restart containerd",
        "apt-get *kubelet*",
        "ctr *import*",
        "kubeadm init*",
        "kubectl *apply -k*",
    ],
)
def test_what_has_failed_is_done_the_next_time(tmp_path: Path, control: Control, step: str) -> None:
    """A step that fails ends the provisioning; the next one does it, and leaves a whole machine."""
    machine = Machine(tmp_path)
    machine.tell("fails", step)
    assert machine.run(*CONTROL).returncode != 0
    machine.tell("fails", "")
    machine.provision(*CONTROL)
    whole = control("pyproxy").machine
    names = {name.removeprefix(str(machine.root)) for name in machine.files()}
    assert names == {name.removeprefix(str(whole.root)) for name in whole.files()}
    for name in ("packages", "images", "applied.yaml", "overlay/kustomization.yaml"):
        assert machine.told(name) == whole.told(name)


def test_what_a_failed_kubeadm_has_left_is_reset(tmp_path: Path) -> None:
    """Kubeadm refuses to begin where it has broken off: it is reset first, and only then."""
    machine = Machine(tmp_path)
    calls = machine.provision(*CONTROL)
    assert not any(call.startswith("kubeadm reset") for call in calls)
    (machine.root / "etc/pyproxy-vm/kubeadm-init").unlink()
    calls = [call.split()[1] for call in machine.provision("control") if call.startswith("kubeadm")]
    assert calls == ["reset", "init"]


def test_a_machine_stays_with_its_proxy(tmp_path: Path) -> None:
    """Another PROXY or release is refused before anything is done; the message has the way out."""
    machine = Machine(tmp_path, proxy="ipvs")
    machine.provision(*CONTROL)
    for other in ({"PROXY": "pyproxy"}, {"KUBERNETES": "1.35.0"}):
        done = machine.run("node", **other)
        assert done.returncode == 1
        assert "error: these machines were made with PROXY=ipvs KUBERNETES=1.34.2: " in done.stderr
        wanted = {"PROXY": "ipvs", "KUBERNETES": "1.34.2"} | other
        words = " ".join(f"{name}={value}" for name, value in wanted.items())
        assert f"(vagrant destroy -f && {words} vagrant up)" in done.stderr
        assert list(machine.changes()) == []


@pytest.mark.parametrize("proxy", PROXIES)
def test_kubeadm_installs_kube_proxy_only_where_it_is_asked_for(
    control: Control, proxy: str
) -> None:
    """With pyproxy and none its phase is skipped; else its mode is the one that was asked for."""
    found = documents(control(proxy).machine)
    skipped = found["InitConfiguration"].get("skipPhases", [])
    if proxy not in KUBE_PROXY:
        assert skipped == ["addon/kube-proxy"]
        assert "KubeProxyConfiguration" not in found
        return
    assert skipped == []
    # by our own reading of kube-proxy's file, which knows its fields
    read = parse_config(yaml.safe_dump(found["KubeProxyConfiguration"]).encode())
    assert read.proxy_mode == proxy


def test_the_cluster_is_dual_stack(control: Control) -> None:
    """Nodes, pods and services have addresses of both families; flannel has the pods' ranges."""
    machine = control("pyproxy").machine
    found = documents(machine)
    assert node_ip(found["InitConfiguration"]) == "192.168.56.10,fd00:56::10"
    assert found["ClusterConfiguration"]["kubernetesVersion"] == "v1.34.2"
    networking = found["ClusterConfiguration"]["networking"]
    assert networking["serviceSubnet"].count(",") == 1
    objects = list(yaml.safe_load_all(machine.told("applied.yaml")))
    (settings,) = (each["data"] for each in objects if each["kind"] == "ConfigMap")
    network = yaml.safe_load(settings["net-conf.json"])
    assert networking["podSubnet"] == f"{network['Network']},{network['IPv6Network']}"
    unit = machine.read("etc/systemd/system/pyproxy-vm-address.service")
    assert "/address.sh 192.168.56.10 fd00:56::10/64\n" in unit


def test_flannel_needs_no_service(control: Control) -> None:
    """It asks the API server by its address; every name in its manifest is filled in."""
    machine = control("pyproxy").machine
    text = machine.told("applied.yaml")
    assert "@" not in text.replace("# @NAMES@", "")
    (workload,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "DaemonSet")
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["KUBERNETES_SERVICE_HOST"] == "192.168.56.10"
    assert env["KUBERNETES_SERVICE_PORT"] == "6443"
    versions = machine.checkout / "scripts/vm/versions.env"
    pinned = dict(
        line.split("=", 1) for line in versions.read_text().splitlines() if "=" in line[:30]
    )
    assert container["image"] == pinned["FLANNEL_IMAGE"]
    assert [each["image"] for each in pod["initContainers"]] == [
        pinned["FLANNEL_CNI_IMAGE"],
        pinned["FLANNEL_IMAGE"],
    ]
    volumes = {each["name"] for each in pod["volumes"]}
    for each in (*pod["initContainers"], container):
        assert arguments(each)
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes


def test_the_repository_is_believed_by_its_key(tmp_path: Path) -> None:
    """Another key is refused, and asked for anew the next time."""
    machine = Machine(tmp_path)
    machine.tell("key", "0123456789ABCDEF0123456789ABCDEF01234567")
    done = machine.run("node")
    assert done.returncode == 1
    assert "https://pkgs.k8s.io/core:/stable:/v1.34/deb/Release.key is not the key" in done.stderr
    assert not any("kubelet=" in call for call in machine.changes())
    assert not (machine.root / "etc/apt/keyrings/kubernetes.asc").exists()


def test_nothing_is_swapped(tmp_path: Path) -> None:
    """Swap ends at once and does not come back; the rest of fstab stays."""
    machine = Machine(tmp_path)
    assert "swapoff -a" in machine.provision("node")
    assert machine.read("etc/fstab").splitlines()[1:] == [
        "UUID=1 / ext4 defaults 0 1",
        "#UUID=2 none swap sw 0 0",
    ]


def test_the_image_is_built_again_when_its_source_changes(tmp_path: Path) -> None:
    """A change gives another tag, which the DaemonSet is rolled out with; other files do not."""
    machine = Machine(tmp_path)
    machine.provision("node", "control")
    for changed in ("Dockerfile", "pyproxy/__main__.py", "bpf/types.h", "scripts/lib/image_it.sh"):
        (machine.checkout / changed).write_text("changed")
        calls = machine.provision("image", "proxy")
        assert any(call.startswith("buildah") for call in calls)
        (image,) = yaml.safe_load(machine.told("overlay/kustomization.yaml"))["images"]
        assert image["newTag"].startswith("1.2.3-")
        last = machine.told("images").splitlines()[-1]
        assert last == f"docker.io/library/pyproxy:{image['newTag']}"
    for other in ("pyproxy/it.pyc", "scripts/lib/tally.py", "README.md"):
        (machine.checkout / other).write_text("changed")
    assert not any(call.startswith("buildah") for call in machine.provision("image", "proxy"))


@pytest.mark.parametrize("proxy", [each for each in PROXIES if each != "pyproxy"])
def test_only_pyproxy_needs_its_image_and_daemonset(control: Control, proxy: str) -> None:
    """With any other proxy neither is there."""
    calls = control(proxy).calls
    assert not any(call.startswith(("buildah", "ctr")) or " -k " in call for call in calls)


def test_the_daemonset_is_ours_with_the_nodes_image(control: Control) -> None:
    """What deploy/ says is applied, with the nodes' image, the API server and the pods' CIDRs."""
    machine = control("pyproxy").machine
    assert machine.told("overlay/deploy/base/kustomization.yaml") == "resources: []\n"
    given = yaml.safe_load(machine.told("overlay/kustomization.yaml"))
    assert given["bases"] == ["deploy/base"]
    maps = {each["name"]: each for each in given["configMapGenerator"]}
    assert maps["pyproxy-api"]["literals"] == ["host=192.168.56.10", "port=6443"]
    (file,) = maps["pyproxy-kube-proxy"]["files"]
    config = parse_config(machine.told(f"overlay/{file}").encode())
    assert len(config.cluster_cidrs) == 2
    assert config.warnings == ()
    (patch,) = given["patchesStrategicMerge"]
    pod = yaml.safe_load(machine.told(f"overlay/{patch}"))["spec"]["template"]["spec"]
    for each in (*pod["initContainers"], *pod["containers"]):
        assert each["imagePullPolicy"] == "Never"
