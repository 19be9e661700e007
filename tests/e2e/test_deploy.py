# SPDX-License-Identifier: Apache-2.0
"""Agents as deploy/ has nodes run them: their capabilities, their mounts, and what is a node's.

What a container runtime adds by seccomp is not here: its default filter lets who has SYS_ADMIN call
bpf(2).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel import ports
from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab import cgroups, deployed, kubeproxy, manifests, netns
from tests.lab.agent import PYPROXY
from tests.lab.cluster import Cluster
from tests.lab.compiled import programs_dir
from tests.lab.contained import Contained
from tests.lab.kubeproxy import Form, Way
from tests.lab.manifests import port
from tests.lab.prober import tcp
from tests.lab.waiting import wait_for

# who asks by packets asks so whatever sockets are translated, and both ways are tried
pytestmark = pytest.mark.once

NODE_PORT = 31_777
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
CAPABILITIES = tuple(deployed.container()["securityContext"]["capabilities"]["add"])
# CAP_SYS_RESOURCE is 24: where a machine has not got it, nobody can be given it
HAS_RESOURCE = int(
    next(
        line.split()[1]
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("CapBnd")
    ),
    16,
) >> 24 & 1  # fmt: skip


class Deployed:
    """Two nodes; on the first one an agent by the files and arguments of deploy/base."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node, self.other = cluster.nodes
        directory = cluster.directory
        found = deployed.objects()
        self.kube_proxys, self.ours = directory / "config.conf", directory / "pyproxy.yaml"
        data = found["ConfigMap/pyproxy-kube-proxy"]["data"]
        self.kube_proxys.write_text(data["config.conf"], encoding="utf-8")
        # what takes most rights: rules of iptables are written
        data = found["ConfigMap/pyproxy"]["data"]
        self.ours.write_text(data["pyproxy.yaml"] + "forwardAccept: true\n", encoding="utf-8")
        self.agent = self.make("first")
        self.scene = Scene(cluster, [self.agent])
        self.app: App = self.scene.app("web")
        ports_ = [port(80, name="web") | {"nodePort": NODE_PORT}, port(53, "UDP", name="dns")]
        self.service = manifests.service(self.app.name, self.app.addresses, ports_, type="NodePort")

    def make(self, name: str, *, lacks: str = "") -> Contained:
        """Return an agent as in deploy/, but for a capability."""
        directory = self.cluster.directory
        options = [
            *self.cluster.options,
            f"--config={self.kube_proxys}",
            f"--pyproxy-config={self.ours}",
            "--take-over",
            f"--probe-socket={directory}/{name}.sock",
        ]
        agent = Contained(
            self.node, directory, self.cluster.bpffs / self.node.name, options,
            capabilities=[each for each in CAPABILITIES if each != lacks],
        )  # fmt: skip
        agent.log = directory / "logs" / f"{name}.log"
        agent.cache_dir = directory / "cache"
        return agent

    def is_ready(self, name: str) -> bool:
        """Return what the readiness probe of an agent comes to."""
        path = f"--probe-socket={self.cluster.directory}/{name}.sock"
        return self.node.run(PYPROXY, "probe", "ready", path).returncode == 0


@pytest.fixture(scope="module")
def made(make_cluster: MakeCluster) -> Iterator[Deployed]:
    """The node, whose sockets may get the NodePort by themselves."""
    with make_cluster(nodes=2, pods_per_node=2) as cluster:
        cluster.respond()
        found = Deployed(cluster)
        kept = programs_dir()
        if kept and kept.is_dir():
            shutil.copytree(kept, found.agent.cache_dir)
        netns.inside(found.node.netns, lambda: RANGE.write_text("20000 60999", encoding="ascii"))
        yield found


def troubles(agent: Contained) -> list[str]:
    """Return the warnings and errors in an agent's log, without what is no fault."""
    lines = agent.log.read_text(encoding="utf-8").splitlines()
    known = ["nodePortAddresses is not set"] + ([] if HAS_RESOURCE else ["oom_score_adj"])
    found = [line for line in lines if " I pyproxy." not in line]
    return [line for line in found if not any(each in line for each in known)]


def test_an_agent_works_as_it_is_deployed(made: Deployed) -> None:
    """All that it does for a node: with these capabilities, on a read-only root."""
    app, scene, agent, node = made.app, made.scene, made.agent, made.node
    pods, client = node.pods, made.cluster.free(node.pods[0])
    far = made.other.pods
    for family in FAMILIES:
        way = Way(app.address(family), 80, far[0].address(family), 8080, NODE_PORT)
        Form.LEGACY.set(node, way)
    scene.put("web.json", made.service, *app.slices(far))
    agent.start()
    # kube-proxy's rules go, ours come, by the tools of the node's iptables
    for family in FAMILIES:
        way = Way(app.address(family), 80, far[0].address(family), 8080, NODE_PORT)
        wait_for(lambda w=way: not kubeproxy.leftovers(Form.LEGACY.saved(node, w)), 10, "rules")  # type: ignore[misc]  # mypy can't infer a lambda with defaults
        # by sockets, by packets, from outside with source NAT
        for host in (pods[0], client, node):
            scene.await_answers(host, app.tcp(family), far)
        scene.await_answers(made.cluster.client, tcp(node.address(family), NODE_PORT), far)
    wait_for(
        lambda: NODE_PORT in netns.inside(node.netns, ports.reserved_ports), 5, "its reservation"
    )
    # a connected UDP socket of the node learns that its backend has left
    to = app.udp(4, connected=True)
    assert node.prober.open("held", to).error == ""
    scene.put("web.json", made.service, *app.slices(pods))
    wait_for(lambda: node.prober.ask("held", to)[0].error != "", 5, "the socket's end", 0.05)
    assert "ended 1 connected UDP sockets" in agent.log.read_text(encoding="utf-8")
    node.prober.close("held")
    status = agent.status()
    assert (status["healthy"], status["problems"]) == (True, [])
    assert status["agent"]["pid"] == 1, "as in a pod"
    assert troubles(agent) == []


def test_a_pod_follows_a_pod(made: Deployed) -> None:
    """Both have pid 1, each in its own pid namespace; what was changed meanwhile counts."""
    if not made.agent.running:
        made.scene.put("web.json", made.service, *made.app.slices(made.node.pods))
        made.agent.start()
    successor = made.make("second")
    successor.launch()
    wait_for(lambda: made.is_ready("second"), 60, "the new pod to be ready", 0.1)
    assert made.is_ready("first")
    assert made.agent.status()["waiting"]["pid"] == 1
    assert made.agent.stop() < 5
    wait_for(lambda: made.is_ready("second") and successor.healthz() == 200, 5, "it to serve")
    client = made.cluster.free(made.node.pods[0])
    made.scene.put("web.json", made.service, *made.app.slices(made.other.pods[:1]))
    made.scene.await_answers(client, made.app.tcp(4), made.other.pods[:1])
    assert successor.status()["problems"] == []
    assert troubles(successor) == []
    successor.stop()
    made.agent = successor


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("SYS_ADMIN", "Operation not permitted"),
        ("NET_ADMIN", "rules of PYPROXY-FORWARD: [Errno 1] Operation not permitted"),
        ("NET_RAW", "whether kube-proxy has left rules is not known"),
    ],
)
def test_each_capability_is_needed(made: Deployed, lacks: str, message: str) -> None:
    """Or it would be one too many. SYS_RESOURCE is for oom_score_adj alone."""
    agent = made.make(f"no-{lacks}", lacks=lacks)
    agent.launch()
    try:
        wait_for(lambda: message in agent.log.read_text(encoding="utf-8"), 30, message, 0.05)
    except TimeoutError as error:
        raise RuntimeError(agent.tail()) from error
    finally:
        agent.kill()


def test_what_cleans_up_leaves_nothing(made: Deployed) -> None:
    """With the same capabilities, once no agent runs."""
    if made.agent.running:
        made.agent.stop()
    command = deployed.container(deployed.CLEANUP)["command"]
    cleaner = made.make("cleaner")
    roots = " ".join(cleaner.roots)
    line = command[-1].replace("exec sleep infinity", "")
    line = line.replace("/tmp/clean", f"{made.cluster.directory}/clean")  # noqa: S108 - the pod's own
    line = line.replace("pyproxy cleanup", f"{PYPROXY} cleanup {roots}")
    done = made.node.run(*cleaner.inside(), *command[:-1], line)
    assert (done.returncode, done.stderr) == (0, "")
    assert (made.cluster.directory / "clean").exists()
    assert not list(made.agent.bpffs.glob("*"))
    assert "PYPROXY" not in made.node.run("iptables-save").stdout


def test_a_bpffs_that_ends_with_the_container_is_refused(made: Deployed) -> None:
    """Nothing is pinned there, and the remedy says how a pod gets the node's (rule 22)."""
    place = made.cluster.directory / "own-bpffs"
    place.mkdir()
    mounted = f'mount -t bpf none {place} && exec "$@"'
    roots = [f"--cgroup-root={made.node.root}", f"--bpffs-root={place}/pyproxy"]
    apart = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "--mount-proc"]
    inside = [*apart, "sh", "-c", mounted, "sh", str(PYPROXY)]
    run = [f"--run-dir={place}-run", f"--manifests={made.scene.directory}"]
    done = made.node.run(*inside, "run", *roots, *run)
    assert done.returncode == 2
    assert f"{place}/pyproxy ends with this container" in done.stderr
    assert "HostToContainer" in done.stderr
    checked = made.node.run(*inside, "check", *roots, "-o", "json")
    assert checked.returncode == 1
    (bpffs,) = [one for one in json.loads(checked.stdout)["checks"] if one["name"] == "bpffs"]
    assert "ends with this container" in bpffs["message"]
    assert "HostToContainer" in bpffs["message"]


FIND = "from pyproxy.kernel.cgroup import find_root; print(find_root())"


def test_the_nodes_cgroups_are_found_from_a_containers_own(made: Deployed) -> None:
    """In a cgroup namespace of its own, a container's cgroup2 looks like the root (rule 22)."""
    root, own = cgroups.mounted_root(), made.cluster.directory / "own-cgroup"
    own.mkdir()
    python = [sys.executable, "-c", FIND]
    apart = ["unshare", "--mount", "--cgroup", "--propagation", "private", "sh", "-c"]
    both = f'mount -t cgroup2 none {own} && exec "$@"'
    found = made.node.run(*apart, both, "sh", *python, cwd=deployed.ROOT)
    assert found.stdout.strip() == str(root)
    alone = f'mount -t cgroup2 none {own} && umount -R {root} && exec "$@"'
    refused = made.node.run(*apart, alone, "sh", *python, cwd=deployed.ROOT)
    assert f"{own} is this container's part of the cgroup2 hierarchy" in refused.stderr


def test_a_bpffs_is_made_on_a_node_without_one() -> None:
    """The init container's command; a second pod finds it there. The node is a mount namespace."""
    (first,) = deployed.pod()["initContainers"]
    (volume,) = first["volumeMounts"]
    assert volume["mountPropagation"] == "Bidirectional"
    place = volume["mountPath"]
    pod = ["unshare", "--mount", "--propagation", "unchanged", *first["command"]]
    script = f"""
        set -eu
        umount -R /sys
        mount -t sysfs sysfs /sys
        mount --bind {place} {place}
        mount --make-shared {place}
        "$@"
        "$@"
        grep -c ' /sys/fs/bpf bpf ' /proc/mounts
    """
    node = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "node", *pod]
    done = subprocess.run(node, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "1\n"
