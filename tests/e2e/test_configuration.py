# SPDX-License-Identifier: Apache-2.0
"""The ConfigMap of kubeadm starts an agent as it is; a changed one is taken over, or ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.followed import Followed
from tests.e2e.scene import Scene
from tests.lab.agent import Agent
from tests.lab.waiting import wait_for
from tests.unit.kube.kubeadm import CONFIG, KUBECONFIG

# a configuration is read in one way, whatever translates
pytestmark = pytest.mark.once

SOON_S = 10.0
UPDATED = "content of the proxy server's configuration file was updated"


class Volumes:
    """What kubeadm's DaemonSet mounts, in a mount namespace of the agent's own."""

    def __init__(self, followed: Followed) -> None:
        directory = followed.cluster.directory / "kubeadm"
        self.config_map = directory / "lib" / "kube-proxy"
        self.config_map.mkdir(parents=True)
        self._versions = 0
        followed.api.service_account(directory / "run/secrets/kubernetes.io/serviceaccount")
        self._kubeconfig = KUBECONFIG.replace("https://192.0.2.10:6443", followed.api.url)
        for name in ("config.conf", "kubeconfig.conf"):
            (self.config_map / name).symlink_to(f"..data/{name}")
        binds = ((directory / "lib", "/var/lib"), (directory / "run", "/run"))
        mounts = "".join(f"mount --bind {there} {here} && " for there, here in binds)
        self.wrapper = ("unshare", "--mount", "sh", "-c", f'{mounts} exec "$@"', "sh")

    def publish(self, config: str) -> None:
        """Publish a version as kubelet does: all files at once, by one rename."""
        self._versions += 1
        version = self.config_map / f"..{self._versions}"
        version.mkdir()
        (version / "config.conf").write_text(config)
        (version / "kubeconfig.conf").write_text(self._kubeconfig)
        new = self.config_map / "..data_tmp"
        new.symlink_to(version.name)
        new.rename(self.config_map / "..data")


@pytest.fixture(scope="module")
def followed(own: Scene) -> Iterator[Followed]:
    """Two nodes, their agents, and the API server that these follow."""
    made = Followed(own)
    yield made
    made.close()


@pytest.fixture
def volumes(followed: Followed, agent: Agent) -> Iterator[Volumes]:
    """The volumes; the agent is started by them, and is as before in the end."""
    made, source = Volumes(followed), agent.source
    agent.source = "--config=/var/lib/kube-proxy/config.conf"
    yield made
    agent.source = source
    agent.restart()


def test_kubeadms_config_map(followed: Followed, agent: Agent, volumes: Volumes) -> None:
    """It starts an agent unchanged; a bad one is told, a live change taken over, others end it."""
    scene, pods = followed.scene, followed.cluster.pods
    config = CONFIG["1.36"]
    volumes.publish(config)
    agent.stop()
    agent.start(*volumes.wrapper)
    assert agent.status()["problems"] == []
    assert log(agent).count("config.conf: nodePortAddresses is not set") == 1
    app = scene.app("kubeadm")
    followed.api.put(app.service(), *app.slices(pods[:1]))
    scene.await_backends(app, pods[:1])

    volumes.publish(config.replace('mode: ""', "mode: userspace"))
    wait_for(lambda: codes(agent) == ["config-invalid"], SOON_S, "a bad file to be a problem")
    assert "userspace" in agent.status()["problems"][0]["message"]
    volumes.publish(config.replace("masqueradeAll: false", "masqueradeAll: true"))
    wait_for(lambda: codes(agent) == [], SOON_S, "the problem to go")
    wait_for(lambda: "changed configuration is in force" in log(agent), SOON_S, "a live change")
    assert pods[1].prober.once(app.tcp(4)).who == pods[0].name

    volumes.publish(config.replace('mode: ""', "mode: nftables"))
    assert agent.process is not None
    assert agent.process.wait(SOON_S) == 1
    assert f"pyproxy: {UPDATED}" in log(agent)
    assert pods[1].prober.once(app.tcp(4)).who == pods[0].name
    agent.start(*volumes.wrapper)
    assert codes(agent) == []


def codes(agent: Agent) -> list[str]:
    """Return the codes of the problems in `status`."""
    return [each["code"] for each in agent.status()["problems"]]


def log(agent: Agent) -> str:
    """Return what the agent has logged."""
    return Path(agent.log).read_text(encoding="utf-8")


def test_a_written_configuration_and_pod_cidrs(followed: Followed, agent: Agent) -> None:
    """What --write-config-to has made runs; a Node without podCIDRs is told until it has some."""
    file = followed.cluster.directory / "written.yaml"
    flags = ["--proxy-mode=nftables", "--detect-local-mode=NodeCIDR", f"--write-config-to={file}"]
    done = agent.node.run(agent.program[0], "run", *flags)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(file.read_text())["nodePortAddresses"] == ["primary"]
    agent.options = (*agent.options, f"--config={file}")
    agent.restart()
    wait_for(lambda: codes(agent) == ["no-pod-cidrs"], SOON_S, "the lack to be told")
    addresses = [{"type": "InternalIP", "address": agent.node.address(4)}]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": agent.node.name}}
    status = {"status": {"addresses": addresses}}
    followed.api.put({**node, **status, "spec": {"podCIDRs": ["10.9.0.0/24"]}})
    wait_for(lambda: codes(agent) == [], SOON_S, "podCIDRs to be taken up")
