# SPDX-License-Identifier: Apache-2.0
"""What the machines' API server is given, as kubectl renders it out of the real deploy/."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pyproxy.kube.proxyconfig import parse_config
from tests.lab.deployed import DEPLOY, KUBECTL
from tests.vm.machine import Machine

# the releases that the Vagrantfile takes: the oldest, the newest
VERSIONS = ("1.31", "1.35")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A control plane, whose checkout has deploy/ as it is."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    shutil.rmtree(machine.checkout / "deploy")
    shutil.copytree(DEPLOY, machine.checkout / "deploy")
    machine.provision("node", "control", "proxy")
    return machine


@pytest.fixture(scope="module")
def objects(machine: Machine) -> list[Any]:
    """What `kubectl apply -k` sends."""
    command = [str(KUBECTL), "kustomize", str(machine.fake / "overlay")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def data_of(objects: list[Any], name: str) -> dict[str, str]:
    """Return a ConfigMap's data, by its name with the hash."""
    (found,) = (each for each in objects if each["metadata"]["name"] == name)
    data: dict[str, str] = found["data"]
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_knows_every_object(objects: list[Any], machine: Machine, version: str) -> None:
    """No field of the DaemonSet and what belongs to it, or of flannel, is unknown or missing."""
    flannel = list(yaml.safe_load_all(machine.told("applied.yaml")))
    assert {"DaemonSet", "ConfigMap"} <= {each["kind"] for each in objects}
    assert {"DaemonSet", "ConfigMap"} <= {each["kind"] for each in flannel}
    for each in (*objects, *flannel):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_daemonset_finds_what_it_refers_to(objects: list[Any]) -> None:
    """The nodes' own image, the API server's address, and the pods' network reach its pods."""
    (workload,) = (each for each in objects if each["kind"] == "DaemonSet")
    pod = workload["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    for each in (agent, *pod["initContainers"]):
        assert each["image"].startswith("pyproxy:1.2.3-")
        assert each["imagePullPolicy"] == "Never"
    refs = {
        each["name"]: each["valueFrom"]["configMapKeyRef"]
        for each in agent["env"]
        if "configMapKeyRef" in each["valueFrom"]
    }
    found = {name: data_of(objects, ref["name"])[ref["key"]] for name, ref in refs.items()}
    assert found == {"KUBERNETES_SERVICE_HOST": "192.168.56.10", "KUBERNETES_SERVICE_PORT": "6443"}
    maps = [each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each]
    (config,) = [data_of(objects, name) for name in maps if "kube-proxy" in name]
    assert len(parse_config(config["config.conf"].encode()).cluster_cidrs) == 2
    assert data_of(objects, next(name for name in maps if "kube-proxy" not in name))
