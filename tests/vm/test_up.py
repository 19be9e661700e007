# SPDX-License-Identifier: Apache-2.0
"""`vagrant up` from its start to its exit status, in machines that are folders (pretend.rb)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.vm.machine import ROOT, Machine

PRETEND = Path(__file__).with_name("pretend.rb")
NAMES = ("control", "worker1")
READY = "\n".join(f"{name} Ready" for name in NAMES)


class Cluster:
    """A folder with our Vagrantfile and the machines that vagrant is to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines = {name: Machine(folder / "machines" / name) for name in NAMES}
        (folder / "scripts/vm").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/vm/versions.env", folder / "scripts/vm")
        text = PRETEND.read_text("utf-8") + (ROOT / "Vagrantfile").read_text("utf-8")
        (folder / "Vagrantfile").write_text(text, "utf-8")
        control = self.machines["control"]
        control.make_venv()
        control.tell("nodes", READY)
        control.tell("daemonsets", "daemonset.apps/pyproxy")

    def vagrant(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run vagrant, with nothing of the caller's settings."""
        return subprocess.run(
            ["vagrant", *words],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ["HOME"],
                "PRETEND": str(self.folder / "machines"),
                "WORKERS": str(len(NAMES) - 1),
                "VAGRANT_HOME": str(self.folder / "vagrant.d"),
                "VAGRANT_DEFAULT_PROVIDER": "pretend",
                "VAGRANT_CHECKPOINT_DISABLE": "1",
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def kubeadm(self, name: str) -> dict[str, object]:
        """Return the first object that a machine's kubeadm was given."""
        text = self.machines[name].read("etc/pyproxy-vm/kubeadm.yaml")
        found: dict[str, object] = next(iter(yaml.safe_load_all(text)))
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cluster, str]:
    """A cluster that is up, and what was said on the way."""
    cluster = Cluster(tmp_path_factory.mktemp("up"))
    done = cluster.vagrant("up")
    assert done.returncode == 0, done.stdout + done.stderr
    return cluster, done.stdout


def test_the_machines_become_a_cluster(up: tuple[Cluster, str]) -> None:
    """A control plane, then the workers by its token; each has its own addresses."""
    cluster, _ = up
    token = (cluster.folder / ".vagrant/pyproxy-join-token").read_text().strip()
    assert cluster.kubeadm("control")["bootstrapTokens"] == [{"token": token, "ttl": "0s"}]
    join = cluster.kubeadm("worker1")
    assert join["kind"] == "JoinConfiguration"
    assert f"'{token}'" in str(join["discovery"])
    assert "192.168.56.11,fd00:56::11" in str(join["nodeRegistration"])


def test_every_node_has_the_image_of_the_daemonset(up: tuple[Cluster, str]) -> None:
    """All nodes build it, under the one name that the DaemonSet asks for."""
    cluster, _ = up
    images = {machine.told("images") for machine in cluster.machines.values()}
    control = cluster.machines["control"]
    (image,) = yaml.safe_load(control.told("overlay/kustomization.yaml"))["images"]
    assert images == {f"docker.io/library/pyproxy:{image['newTag']}\n"}


def test_the_smoke_test_is_the_end(up: tuple[Cluster, str]) -> None:
    """It runs once the last machine is up, on the control plane, while that worker is locked."""
    _, said = up
    worker, smoke = said.index("worker (shell)"), said.index("Running trigger: smoke test")
    assert worker < smoke < said.index("control: PROXY=pyproxy: well")


def test_a_cluster_that_is_not_well_fails(up: tuple[Cluster, str]) -> None:
    """`vagrant up` has the smoke test's failure for its own."""
    cluster, _ = up
    control = cluster.machines["control"]
    control.tell("fails", "python *")
    done = cluster.vagrant("up", NAMES[-1])
    control.tell("fails", "")
    assert done.returncode == 1
    assert "Running trigger: smoke test" in done.stdout
    assert "PROXY=pyproxy: well" not in done.stdout
