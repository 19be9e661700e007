# SPDX-License-Identifier: Apache-2.0
"""Taking over from kube-proxy: its rules go, what they have translated goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab import kubeproxy, manifests
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.hosts import Host, Node
from tests.lab.kubeproxy import Form, Way
from tests.lab.manifests import port
from tests.lab.prober import Target, tcp
from tests.lab.waiting import wait_for

# who asks by packets asks so whatever sockets are translated
pytestmark = pytest.mark.once

NODE_PORT = 31_550
QUICK = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
iptables: {syncPeriod: 1s}
"""


class TakeOver:
    """A node with rules of kube-proxy's, an application, and an agent that does not run yet."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node: Node = cluster.nodes[0]
        self.backend = cluster.nodes[1].pods[0]
        self.client = cluster.free(self.node.pods[0])
        self.scene = Scene(cluster, [cluster.agent(self.node)])
        self.agent: Agent = self.scene.agents[0]
        self.app: App = self.scene.app("web")
        ports = [port(80, name="web") | {"nodePort": NODE_PORT}]
        service = manifests.service(self.app.name, self.app.addresses, ports, type="NodePort")
        self.scene.put("web.json", service, *self.app.slices([self.backend]))
        config = cluster.directory / "kube-proxy.yaml"
        config.write_text(QUICK)
        self.agent.options = (*self.agent.options, f"--config={config}")

    def way(self, family: int) -> Way:
        """Return what the rules of a family translate."""
        to = self.backend.address(family)
        return Way(self.app.address(family), 80, to, 8080, NODE_PORT)

    def asked(self) -> list[tuple[str, Host, Target]]:
        """Return who asks at which address, each with a name: a pod, and a host outside."""
        outside = self.cluster.client
        inner = [(f"pod{n}", self.client, self.app.tcp(n)) for n in FAMILIES]
        return inner + [
            (f"out{n}", outside, tcp(self.node.address(n), NODE_PORT)) for n in FAMILIES
        ]

    def set(self, form: Form) -> None:
        """Write kube-proxy's rules, and have a connection of each family go by them."""
        for family in FAMILIES:
            form.set(self.node, self.way(family))
        for name, host, to in self.asked():
            assert host.prober.open(name, to).error == ""
        self.go_on()

    def go_on(self) -> None:
        """Assert that the connections that went by rules still have their backend."""
        for name, host, to in self.asked():
            (answer,) = host.prober.ask(name, to)
            assert (answer.who, answer.error) == (self.backend.name, ""), name

    def is_rid(self, form: Form) -> bool:
        """Return whether none of kube-proxy's rules is left."""
        return not any(
            kubeproxy.leftovers(form.saved(self.node, self.way(family))) for family in FAMILIES
        )

    def await_rid(self, form: Form) -> None:
        """Wait until its rules are gone, and assert that those of others are not."""
        wait_for(lambda: self.is_rid(form), 10, "kube-proxy's rules to go", 0.05)
        for family in FAMILIES:
            assert "DOCKER" in form.saved(self.node, self.way(family))

    def end(self) -> None:
        """Take away all that a test has made."""
        if self.agent.running:
            self.agent.stop()
        assert self.agent.cli("cleanup").status == 0
        for name, host, _ in self.asked():
            host.prober.close(name)
        for family in FAMILIES:
            for form in Form:
                assert "pyproxy" not in form.saved(self.node, self.way(family)).lower()
                form.clear(self.node, self.way(family))


@pytest.fixture(scope="module")
def cluster(make_cluster: MakeCluster) -> Iterator[Cluster]:
    """Two nodes, whose agents do not run."""
    with make_cluster(nodes=2, pods_per_node=1) as made:
        made.respond()
        yield made


@pytest.fixture(scope="module")
def module_take_over(cluster: Cluster) -> TakeOver:
    """The one of all tests."""
    return TakeOver(cluster)


@pytest.fixture
def take_over(module_take_over: TakeOver) -> Iterator[TakeOver]:
    """A node as kube-proxy has left it, once set() was called; it is empty again afterwards."""
    yield module_take_over
    module_take_over.end()


@pytest.mark.parametrize("form", Form)
def test_an_agent_removes_rules_and_connections_go_on(take_over: TakeOver, form: Form) -> None:
    """They were made by kube-proxy's NAT, which nobody else on this node uses (A17.7, A21.5)."""
    take_over.set(form)
    take_over.agent.start()
    take_over.await_rid(form)
    take_over.go_on()
    for _, host, to in take_over.asked():
        assert host.prober.once(to).who == take_over.backend.name
    log = take_over.agent.log
    wait_for(lambda: "kube-proxy's rules: removed" in log.read_text(), 5, "the log to say so")
    take_over.agent.stop()
    take_over.go_on()


@pytest.mark.parametrize("form", Form)
def test_the_command_removes_rules_while_no_agent_runs(take_over: TakeOver, form: Form) -> None:
    """It says what it removed; a second time there is nothing, and that is no failure."""
    take_over.set(form)
    first, second = (take_over.agent.cli("cleanup", "--kube-proxy") for _ in range(2))
    assert (first.status, first.stderr) == (0, "")
    assert "removed" in first.stdout
    take_over.await_rid(form)
    assert (second.status, second.stderr) == (0, "")
    assert second.stdout == "nothing of kube-proxy's was there\n"
    take_over.go_on()


def test_an_agent_waits_for_kube_proxys_end(take_over: TakeOver) -> None:
    """It would write its rules again; the log says whom the agent waits for."""
    take_over.set(Form.NFT)
    former = kubeproxy.run_as_kube_proxy(take_over.node)
    try:
        said = take_over.agent.cli("cleanup", "--kube-proxy").stderr
        assert f"kube-proxy (pid {former.pid}) runs here" in said
        take_over.end()
        take_over.set(Form.NFT)
        take_over.agent.start()
        log = take_over.agent.log
        wait_for(lambda: f"until kube-proxy (pid {former.pid}) has" in log.read_text(), 5, "a line")
        assert not take_over.is_rid(Form.NFT)
    finally:
        former.kill()
        former.wait(10)
    take_over.await_rid(Form.NFT)
    take_over.go_on()
