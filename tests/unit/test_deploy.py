# SPDX-License-Identifier: Apache-2.0
"""deploy/: it renders, is what the API knows, and says what the program and documents say."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import pyproxy
from pyproxy.cli.main import cli, main
from pyproxy.cli.options import BPFFS_ROOT, CACHE_DIR, RUN_DIR
from pyproxy.kernel.host import MOUNTED
from pyproxy.kube.proxyconfig import examine
from pyproxy.kube.pyproxyconfig import examine_own
from tests.lab import deployed
from tests.unit.kube import kubeadm

OLDEST = "1.30"
INSTALL = deployed.ROOT / "docs/install.md"


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("variant", [*deployed.VARIANTS, deployed.CLEANUP])
def test_every_object_is_what_the_api_knows(variant: str, version: str) -> None:
    """No field is unknown, missing or of another type."""
    found = deployed.objects(variant)
    for each in found.values():
        kubernetes_validate.validate(each, version, strict=True)
    assert len(found) == 6
    wrong = found["DaemonSet/pyproxy"]["spec"]["template"]["spec"] | {"hostNetworks": True}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": wrong}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("variant", deployed.VARIANTS)
def test_two_agents_fit_on_a_node(variant: str) -> None:
    """A roll-out starts the new one first; a port would be the node's, and keep it from there."""
    daemon_set = deployed.objects(variant)["DaemonSet/pyproxy"]["spec"]
    strategy = daemon_set["updateStrategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}
    pod, agent = deployed.pod(variant), deployed.container(variant)
    assert pod["hostNetwork"]
    assert "ports" not in agent
    assert "--take-over" in agent["args"]
    for kind in ("readinessProbe", "livenessProbe"):
        # by the network the other agent would answer
        assert set(agent[kind]) & {"exec", "httpGet", "tcpSocket", "grpc"} == {"exec"}


def test_it_runs_where_kube_proxy_runs() -> None:
    """On every node, whatever its taints, and before all that needs services."""
    pod = deployed.pod()
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_the_command_line_is_the_programs() -> None:
    """Every flag exists, and probes ask at the socket that the agent has."""
    agent = deployed.container()
    assert agent["command"] == ["pyproxy"]
    name, *arguments = agent["args"]
    run = cli.commands[name]
    run.make_context("run", [each.replace("$(NODE_NAME)", "node") for each in arguments])
    (socket,) = [each for each in arguments if each.startswith("--probe-socket=")]
    for kind, what in (("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert agent[kind]["exec"]["command"] == ["pyproxy", "probe", what, socket]


def test_what_the_agent_writes_is_mounted() -> None:
    """The root is read-only: each folder that it has by default is the node's, or the pod's own."""
    agent, pod = deployed.container(), deployed.pod()
    assert agent["securityContext"]["readOnlyRootFilesystem"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: each for each in agent["volumeMounts"]}
    for path in map(str, (RUN_DIR, CACHE_DIR, BPFFS_ROOT.parent)):
        assert volumes[mounts[path]["name"]]["hostPath"]["path"] == path
        assert not mounts[path].get("readOnly")
    assert mounts[str(BPFFS_ROOT.parent)]["mountPropagation"] == "HostToContainer"
    sysctls = mounts[f"{MOUNTED}/proc/sys/net"]
    assert volumes[sysctls["name"]]["hostPath"]["path"] == "/proc/sys/net"
    for path in ("/run/pyproxy-pod", "/tmp"):  # noqa: S108 - the container's
        assert "emptyDir" in volumes[mounts[path]["name"]]
    assert {each["name"] for each in mounts.values()} == volumes.keys() - {"sys-fs"}


def test_the_agents_container_is_not_privileged() -> None:
    """Capabilities by name; what mounts a bpffs for the node ends before it, or is left out."""
    context = deployed.container()["securityContext"]
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    told = INSTALL.read_text(encoding="utf-8")
    assert all(f"`{name}`" in told for name in context["capabilities"]["add"])
    (first,) = deployed.pod()["initContainers"]
    assert first["securityContext"]["privileged"]
    assert not deployed.pod("unprivileged")["initContainers"]
    assert "privileged: true" not in deployed.rendered("unprivileged")


def test_what_cleans_up_runs_no_agent() -> None:
    """It has an agent's rights and mounts, is ready when it is done, and is not started again."""
    agent, cleaner = deployed.container(), deployed.container(deployed.CLEANUP)
    assert "args" not in cleaner
    assert "livenessProbe" not in cleaner
    assert cleaner["readinessProbe"]["exec"]["command"][-1] in cleaner["command"][-1]
    for same in ("securityContext", "volumeMounts"):
        assert cleaner[same] == agent[same]


def test_the_image_is_of_this_version() -> None:
    """In all containers."""
    pod = deployed.pod()
    images = {each["image"] for each in (*pod["containers"], *pod["initContainers"])}
    assert images == {f"pyproxy:{pyproxy.__version__}"}


def config_files(folder: Path) -> list[Path]:
    """Write the files of the ConfigMaps; return their paths."""
    found = deployed.objects()
    paths = []
    for name in ("pyproxy-kube-proxy", "pyproxy"):
        for key, text in found[f"ConfigMap/{name}"]["data"].items():
            (folder / key).write_text(text, encoding="utf-8")
            paths.append(folder / key)
    return paths


def test_the_configuration_can_be_used_unchanged(tmp_path: Path) -> None:
    """Without an error or a warning; and each is where the agent looks for it."""
    kube_proxys, ours = config_files(tmp_path)
    assert examine(kube_proxys).errors == []
    assert tuple(examine_own(ours)) == ([], [])
    mounts = {each["mountPath"] for each in deployed.container()["volumeMounts"]}
    for path in (kube_proxys, ours):
        (flag,) = [each for each in deployed.container()["args"] if each.endswith(path.name)]
        assert str(Path(flag.partition("=")[2]).parent) in mounts


def test_kubeadms_own_configmap_fits_in() -> None:
    """Its files are called so, and its kubeconfig is where its configuration looks for it."""
    volumes = {each["name"]: each for each in deployed.pod("kubeadm")["volumes"]}
    assert volumes["kube-proxy-config"]["configMap"] == {"name": "kube-proxy"}
    mounts = {each["name"]: each["mountPath"] for each in deployed.container()["volumeMounts"]}
    place = mounts["kube-proxy-config"]
    for text in kubeadm.CONFIG.values():
        connection = yaml.safe_load(text)["clientConnection"]
        assert connection["kubeconfig"] == f"{place}/kubeconfig.conf"
    assert f"--config={place}/config.conf" in deployed.container()["args"]


def test_the_api_servers_address_can_be_given() -> None:
    """By a ConfigMap that need not be there: what docs/install.md has one make."""
    told = INSTALL.read_text(encoding="utf-8")
    wanted = {"KUBERNETES_SERVICE_HOST": "host", "KUBERNETES_SERVICE_PORT": "port"}
    found = {each["name"]: each for each in deployed.container()["env"]}
    for name, key in wanted.items():
        reference = found[name]["valueFrom"]["configMapKeyRef"]
        assert reference == {"name": "pyproxy-api", "key": key, "optional": True}
        assert re.search(rf"create configmap pyproxy-api .*--from-literal={key}=", told)


def test_each_folder_is_explained() -> None:
    """And there is one for each that is named."""
    told = INSTALL.read_text(encoding="utf-8")
    named = set(re.findall(r"-k deploy/(\w+)", told)) | set(re.findall(r"\| `deploy/(\w+)`", told))
    assert named == {*deployed.VARIANTS, deployed.CLEANUP}
    assert named == {each.name for each in deployed.DEPLOY.iterdir() if each.is_dir()}


def test_resources_are_those_that_were_measured() -> None:
    """The document says of what they are made."""
    resources = deployed.container()["resources"]
    told = INSTALL.read_text(encoding="utf-8")
    for kind in ("requests", "limits"):
        assert f"{resources[kind]['memory']}" in told
    assert "cpu" not in resources["limits"]


def test_a_probe_without_an_agent_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the socket."""
    path = tmp_path / "probe.sock"
    assert main(["probe", "ready", f"--probe-socket={path}"]) == 1
    assert f"no agent answers at {path}" in capsys.readouterr().err
