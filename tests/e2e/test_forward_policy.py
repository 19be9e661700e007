# SPDX-License-Identifier: Apache-2.0
"""FORWARD with the policy DROP and no rule that accepts anything: what status says, and what helps.

Packets alone are forwarded by rules that could drop what we translate; a translated socket's are
like those of any pod that talks to another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from pyproxy.kernel import forward
from pyproxy.model import Family
from tests.e2e.conftest import MakeCluster
from tests.e2e.scene import FAMILIES, App, Scene, running
from tests.lab import manifests, netns
from tests.lab.agent import Agent
from tests.lab.firewalls import Drop
from tests.lab.hosts import Host, Node, await_ready
from tests.lab.prober import tcp, udp
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

NODE_PORT = 31_300
POD_CIDRS = "10.244.0.0/16,fd00:10:244::/48"
DATAGRAM_PORT = 7779
TOOLS = ("iptables", "ip6tables")
CHAIN = "PYPROXY-FORWARD"
RULES = ("chain", "mark", "answers", "jump")  # a line each
OWN = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\nforwardAccept: true\n"
CONFIG = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
iptables: {syncPeriod: 1s, masqueradeBit: 20}
"""


class Way(NamedTuple):
    """Who asks, at which address and ports of TCP and UDP."""

    client: Host
    address: str
    ports: tuple[int, int]

    def fails(self) -> bool:
        """Return whether nothing answers."""
        to = tcp(self.address, self.ports[0], timeout_s=0.1)
        return self.client.prober.once(to).error == "TIMEOUT"

    def reaches(self, backend: Host) -> bool:
        """Return whether the backend answers."""
        targets = tcp(self.address, self.ports[0]), udp(self.address, self.ports[1])
        return all(self.client.prober.once(to).who == backend.name for to in targets)


@pytest.fixture(scope="module")
def firewalled(make_cluster: MakeCluster, translation: str) -> Iterator[Scene]:
    """A cluster whose first node gets firewalls."""
    with running(make_cluster(nodes=2, pods_per_node=2), translation) as found:
        yield found


@pytest.fixture(scope="module")
def apps(firewalled: Scene) -> dict[str, App]:
    """Services with a NodePort: of a pod of the first node, and of one of the second."""
    made = {}
    for number, node in enumerate(firewalled.cluster.nodes):
        app = made[("here", "elsewhere")[number]] = firewalled.app("walled")
        ports = [
            {"name": name, "port": port, "protocol": protocol, "targetPort": 8080,
             "nodePort": NODE_PORT + number}
            for name, port, protocol in (("web", 80, "TCP"), ("dns", 53, "UDP"))
        ]  # fmt: skip
        service = manifests.service(app.name, app.addresses, ports, type="NodePort")
        pods = [node.pods[1]]
        firewalled.put(f"{app.name}.json", service, *app.slices(pods))
        firewalled.await_backends(app, pods)
    return made


def ways(scene: Scene, apps: dict[str, App], where: str, family: int) -> list[Way]:
    """Return the ways through the first node to a backend here or elsewhere."""
    cluster, ip = scene.cluster, apps[where].address(family)
    one, number = cluster.nodes[0], NODE_PORT + (where == "elsewhere")
    return [
        Way(cluster.free(one.pods[0]), ip, (80, 53)),
        Way(cluster.stranger, ip, (80, 53)),
        Way(cluster.client, one.address(family), (number, number)),
    ]


def check_that_all_work(scene: Scene, apps: dict[str, App]) -> None:
    """Assert that every way works."""
    for index, where in enumerate(apps):
        for family in FAMILIES:
            for way in ways(scene, apps, where, family):
                assert way.reaches(scene.cluster.nodes[index].pods[1]), way


def check_that_none_works(scene: Scene, apps: dict[str, App]) -> None:
    """Assert that packets to each service are lost: one way tells, since it takes its time."""
    for where in apps:
        for family in FAMILIES:
            way = ways(scene, apps, where, family)[0]
            assert way.fails(), way


def notices(scene: Scene) -> list[dict[str, Any]]:
    """Return the first node's notices; they alone make no node unhealthy."""
    status = scene.agents[0].status()
    assert status["problems"] == []
    assert status["healthy"]
    found: list[dict[str, Any]] = status["notices"]
    return found


@pytest.fixture(params=list(Drop), ids=lambda found: found.name.lower())
def dropping(request: pytest.FixtureRequest, firewalled: Scene) -> Iterator[Node]:
    """The first node, which forwards nothing that no rule accepts."""
    node, drop = firewalled.cluster.nodes[0], request.param
    drop.set(node)
    yield node
    drop.clear(node)


@pytest.fixture(scope="module", params=["", POD_CIDRS], ids=["unknown", "known"])
def pods_known(request: pytest.FixtureRequest, firewalled: Scene) -> Iterator[bool]:
    """Whether the agent knows which networks are the pods'."""
    agent = firewalled.agents[0]
    options = agent.options
    if request.param:
        agent.options = (*options, f"--cluster-cidr={request.param}")
        agent.restart()
    yield bool(request.param)
    if request.param:
        agent.options = options
        agent.restart()


def test_a_notice_says_what_helps(
    firewalled: Scene, apps: dict[str, App], dropping: Node, pods_known: bool
) -> None:
    """Its commands, word for word, make every way work; the policy stays if the pods are known."""
    check_that_none_works(firewalled, apps)
    found = notices(firewalled)
    assert {each["code"] for each in found} == {"forward-policy-drop"}
    commands = [command for each in found for command in each["commands"]]
    shown = firewalled.agents[0].cli("status").stdout.splitlines()
    for command in commands:
        assert f"  {command}" in shown
        assert dropping.run("sh", "-c", command).stderr == ""
    check_that_all_work(firewalled, apps)
    assert bool(notices(firewalled)) is pods_known


def test_a_notice_needs_no_agent(firewalled: Scene) -> None:
    """What it says is in the kernel; where no chain drops there is none."""
    agent, node = firewalled.agents[0], firewalled.cluster.nodes[0]
    assert notices(firewalled) == []
    agent.stop()
    Drop.NFT.set(node)
    found = agent.status()["notices"]
    Drop.NFT.clear(node)
    agent.start()
    assert [each["code"] for each in found] == ["forward-policy-drop"] * 2
    assert notices(firewalled) == []


@pytest.fixture(scope="module")
def accepting(firewalled: Scene) -> Agent:
    """The first node's agent with forwardAccept, a mark of its own and a short syncPeriod.

    It stays so: these tests are the last ones.
    """
    agent, at = firewalled.agents[0], firewalled.cluster.directory
    own, config = at / "pyproxy.yaml", at / "kube-proxy.yaml"
    own.write_text(OWN)
    config.write_text(CONFIG)
    agent.options = (*agent.options, f"--pyproxy-config={own}", f"--config={config}")
    agent.restart()
    return agent


def saved(node: Node) -> list[str]:
    """Return what all of a node's iptables have of ours."""
    names = [f"{tool}-{flavour}-save" for tool in TOOLS for flavour in ("nft", "legacy")]
    texts = [node.run(name, "-t", "filter", check=True).stdout for name in names]
    return [line for text in texts for line in text.splitlines() if CHAIN in line]


def await_accepted(scene: Scene) -> None:
    """Wait until the rules are there, as after what a test has done to them."""
    node = scene.cluster.nodes[0]

    def accepted() -> bool:
        return all(each.accepts for family in Family for each in forward.filters(family))

    wait_for(lambda: netns.inside(node.netns, accepted), 5, "the rules to be written again", 0.02)
    assert notices(scene) == []


@pytest.mark.usefixtures("accepting", "dropping")
@pytest.mark.parametrize("dropping", [Drop.NFT, Drop.LEGACY], indirect=True)
def test_what_is_translated_is_accepted(firewalled: Scene, apps: dict[str, App]) -> None:
    """In both directions, and nothing else: who asks a pod directly is not let through."""
    await_accepted(firewalled)
    check_that_all_work(firewalled, apps)
    pod, backend = (node.pods[0] for node in firewalled.cluster.nodes)
    client = firewalled.cluster.free(pod)
    for family in FAMILIES:
        assert Way(client, backend.address(family), (8080, 8080)).fails()


@pytest.mark.usefixtures("accepting", "dropping")
@pytest.mark.parametrize("dropping", [Drop.NFT], indirect=True)
def test_fragments_are_accepted(firewalled: Scene) -> None:
    """Later ones bear no mark: conntrack has put the packet together before the rules see it."""
    backend = firewalled.cluster.nodes[1].pods[1]
    made = firewalled.app("large")
    slices = [made.slice(family, [backend], number=DATAGRAM_PORT) for family in FAMILIES]
    firewalled.put("large.json", made.service(), *slices)
    server = backend.python("datagrams.py", "serve", str(DATAGRAM_PORT))
    await_ready(server, backend.name)
    await_accepted(firewalled)
    asks = [("ask", made.address(family), "53", "1400,4000,60000") for family in FAMILIES]

    def answered() -> bool:
        stranger = firewalled.cluster.stranger
        return not any(stranger.script("datagrams.py", *ask).returncode for ask in asks)

    wait_for(answered, 10, "datagrams of any size to come back")
    server.kill()
    server.wait(10)


@pytest.mark.usefixtures("accepting")
def test_it_comes_after_the_rules_of_others(firewalled: Scene) -> None:
    """So that what these drop is not let through, a network policy's packets for one."""
    node = firewalled.cluster.nodes[0]
    await_accepted(firewalled)
    for tool in TOOLS:
        listed = node.run(f"{tool}-nft", "-S", "FORWARD", check=True).stdout.splitlines()
        assert listed[-1] == f"-A FORWARD -j {CHAIN}"


@pytest.mark.usefixtures("accepting")
@pytest.mark.parametrize("dropping", [Drop.INET], indirect=True)
def test_a_table_of_others_is_told_of_the_mark(
    firewalled: Scene, apps: dict[str, App], dropping: Node
) -> None:
    """Rules in iptables cannot overrule it; the commands let through what bears the mark."""
    check_that_none_works(firewalled, apps)
    (notice,) = notices(firewalled)
    assert "0x100000" in notice["commands"][0]
    for command in notice["commands"]:
        assert dropping.run("sh", "-c", command).stderr == ""
    check_that_all_work(firewalled, apps)


@pytest.mark.parametrize("dropping", [Drop.NFT], indirect=True)
@pytest.mark.parametrize("harm", ["-F", f"-A FORWARD -j {CHAIN}"])
def test_what_others_delete_is_restored(
    firewalled: Scene, accepting: Agent, dropping: Node, harm: str
) -> None:
    """Within a syncPeriod, as it was, and a warning says so."""
    await_accepted(firewalled)
    before, said = saved(dropping), accepting.log.read_text()
    for tool in TOOLS:
        dropping.run(f"{tool}-nft", *harm.split(), check=True)
    assert saved(dropping) != before
    wait_for(lambda: saved(dropping) == before, 5, "the rules to be there again")
    added = accepting.log.read_text().removeprefix(said)
    for family in FAMILIES:
        assert f"IPv{family}: rules of {CHAIN} were changed: written again" in added


@pytest.mark.parametrize("dropping", [Drop.LEGACY], indirect=True)
def test_rules_outlive_the_agent(
    firewalled: Scene, apps: dict[str, App], accepting: Agent, dropping: Node
) -> None:
    """They go when the setting is turned off, from both flavours' tables if both are there."""
    Drop.NFT.set(dropping)
    await_accepted(firewalled)
    accepting.stop()
    check_that_all_work(firewalled, apps)
    assert len(saved(dropping)) == len(TOOLS) * 2 * len(RULES)
    assert accepting.status()["notices"] == []
    options = accepting.options
    accepting.options = tuple(each for each in options if "pyproxy-config" not in each)
    accepting.start()
    assert saved(dropping) == []
    accepting.options = options
    Drop.NFT.clear(dropping)
    accepting.restart()


def test_without_iptables_the_rest_is_served(
    firewalled: Scene, apps: dict[str, App], accepting: Agent
) -> None:
    """Status says what is missing, and what to do."""
    program = accepting.program
    accepting.program = ("env", "PATH=/nowhere", *program)
    accepting.restart()
    check_that_all_work(firewalled, apps)
    problems = accepting.status()["problems"]
    assert {each["code"] for each in problems} == {"forward-not-accepted"}
    assert [each["message"].split(": ")[-1] for each in problems] == [
        f"{tool}-restore is not installed" for tool in TOOLS
    ]
    accepting.program = program
    accepting.restart()
    assert notices(firewalled) == []


def test_cleanup_takes_the_rules_away(firewalled: Scene, accepting: Agent) -> None:
    """All of them, and nothing of others."""
    node = firewalled.cluster.nodes[0]
    node.run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT", check=True)
    await_accepted(firewalled)
    accepting.stop()
    assert saved(node)
    reply = accepting.cli("cleanup")
    assert (reply.status, reply.stderr) == (0, "")
    assert saved(node) == []
    listed = node.run("iptables-nft", "-S", "FORWARD", check=True).stdout.splitlines()
    assert listed[1:] == ["-A FORWARD -s 192.0.2.1/32 -j ACCEPT"]
