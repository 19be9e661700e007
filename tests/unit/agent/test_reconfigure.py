# SPDX-License-Identifier: Apache-2.0
"""Changed configuration: what takes effect live, what ends the agent, what changes nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from pyproxy.agent import hostsetup
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.reconfigure import LIVE_OPTIONS, UPDATED, Reconfiguring, Reread, reread
from pyproxy.errors import ConfigError
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.kube.addresses import parse_address, parse_prefix
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.model import Node
from pyproxy.plan.options import DetectLocalMode, Mode, Options
from pyproxy.plan.world import World
from pyproxy.tables import (
    ConnectionTable,
    ConnectionTimeouts,
    Conntrack,
    PortRange,
    SocketTranslation,
)

OPTIONS = Options("node-1", local_cidrs=(parse_prefix("10.0.0.0/8"),))
CONFIG = RunConfig(
    manifests=None,
    kubeconfig=None,
    options=OPTIONS,
    healthz_bind_address=("0.0.0.0", 10256),
    metrics_bind_address=None,
    cgroup_root=Path("/cgroup"),
    bpffs_root=Path("/bpf"),
    run_dir=Path("/run"),
    cache_dir=Path("/cache"),
    devices=(),
)
NODE = Node("node-1", (parse_address("192.0.2.1"),), "zone-a", (parse_prefix("10.1.0.0/24"),))


class FakePath:
    """Takes the timeouts that a packet path is given."""

    def __init__(self) -> None:
        self.timeouts: list[ConnectionTimeouts] = []

    def write_timeouts(self, timeouts: ConnectionTimeouts) -> None:
        """As PacketPath's."""
        self.timeouts.append(timeouts)


class Scene:
    """One agent's configuration, with its world."""

    def __init__(self, config: RunConfig = CONFIG) -> None:
        self.path = FakePath()
        self.world = World(config.options)
        self.world.put_node(NODE)
        self.it = Reconfiguring(config, [cast("PacketPath", self.path)], self.world)

    def take(self, config: RunConfig, *remarks: str) -> str:
        """Take a configuration that was read."""
        return self.it.take(Reread(Chosen(config, remarks)))


pytestmark = pytest.mark.usefixtures("logging_as_before")


# another value of every option that is taken over live
OTHER: dict[str, Any] = {
    "allow_service_external_ips": False,
    "hide_clients": True,
    "ipv6_localhost_node_ports": True,
    "local_cidrs": (),
    "local_interface": "cni0",
    "localhost_node_ports": False,
    "masquerade_all": True,
    "node_port_addresses": (parse_prefix("192.0.2.0/24"),),
    "node_ports_on_primary": True,
    "protect_node_ports": False,
    "same_uplink": False,
}


@pytest.mark.parametrize("name", LIVE_OPTIONS)
def test_options_that_change_live(name: str) -> None:
    """They are in the world's options, and what the Node has said stays."""
    scene = Scene()
    assert OTHER[name] != getattr(OPTIONS, name)
    wanted = CONFIG._replace(options=OPTIONS._replace(**{name: OTHER[name]}))
    assert scene.take(wanted) == ""
    assert getattr(scene.world.options, name) == OTHER[name]
    assert (scene.world.options.zone, scene.world.options.node_ips) == ("zone-a", NODE.addresses)
    assert scene.it.config == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"node_name": "other"},
        {"mode": Mode.NFTABLES},
        {"detect_local_mode": DetectLocalMode.NODE_CIDR},
        {"bind_address": parse_address("192.0.2.9")},
        {"forward_accept": True},
        {"fast_path": True},
        {"masquerade_bit": 3},
    ],
)
def test_options_that_need_a_start(options: dict[str, Any]) -> None:
    """The agent ends by kube-proxy's message, and nothing is taken over (A15.11)."""
    scene = Scene()
    before = scene.world.options
    assert scene.take(CONFIG._replace(options=OPTIONS._replace(**options))) == UPDATED
    assert scene.world.options == before
    assert scene.it.config == CONFIG


@pytest.mark.parametrize(
    "fields",
    [
        {"kubeconfig": Path("/x")},
        {"healthz_bind_address": None},
        {"devices": ("eth0",)},
        {"socket_translation": SocketTranslation.HOST},
        {"connections": ConnectionTable(2048)},
        {"connections": ConnectionTable(source_ports=PortRange(2000, 5))},
        {"sync_period_s": 5.0},
        {"bind_address_hard_fail": True},
        {"proxy_mode": "ipvs"},
    ],
)
def test_other_fields_need_a_start(fields: dict[str, Any]) -> None:
    """What is opened, bound, loaded or watched once."""
    assert Scene().take(CONFIG._replace(**fields)) == UPDATED


def test_timeouts_change_live() -> None:
    """Connections that exist have them from then on."""
    scene = Scene()
    timeouts = ConnectionTimeouts(udp=7)
    assert scene.take(CONFIG._replace(connections=ConnectionTable(timeouts=timeouts))) == ""
    assert scene.path.timeouts == [timeouts]


def test_what_the_host_is_given_changes_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kube-proxy sets at its start alone; only what is another one is set."""
    given: list[object] = []
    monkeypatch.setattr(hostsetup, "set_conntrack", given.append)
    monkeypatch.setattr(hostsetup, "set_oom_score", given.append)
    scene = Scene()
    wanted = CONFIG._replace(conntrack=Conntrack(min=7))
    assert scene.take(wanted) == ""
    assert scene.take(wanted._replace(oom_score_adj=-5)) == ""
    assert given == [Conntrack(min=7), -5]


def test_logging_changes_live(caplog: pytest.LogCaptureFixture) -> None:
    """How much is logged, and what else there is to say of the file."""
    assert Scene().take(CONFIG._replace(logging=LogSettings(verbosity=4)), "x is unknown") == ""
    assert logging.getLogger("pyproxy").level == logging.DEBUG
    assert "x is unknown" in caplog.text


def test_fields_without_meaning_change_nothing() -> None:
    """Only what /configz shows."""
    scene = Scene()
    wanted = CONFIG._replace(configuration={"configSyncPeriod": "1m0s"})
    assert scene.take(wanted) == ""
    assert scene.it.config.configuration == {"configSyncPeriod": "1m0s"}
    assert scene.path.timeouts == []


def test_the_same_again_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Not even its warnings are said again."""
    caplog.set_level(logging.INFO)
    assert Scene().take(CONFIG, "x is unknown") == ""
    assert caplog.text == ""


def test_a_field_that_is_passed_over_is_named_though_nothing_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who misspells a field while the agent runs finds it in the log (A19.1), once."""
    scene = Scene()
    for remarks in ((), ("x is unknown",), ("x is unknown",)):
        assert scene.take(CONFIG, *remarks) == ""
    assert caplog.text.count("x is unknown") == 1


def test_a_bad_file_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is a problem until it is mended, and is logged once."""
    caplog.set_level(logging.INFO)
    scene = Scene()
    for _ in range(2):
        assert scene.it.take(Reread(None, "/c: mode: 'x' is no mode")) == ""
    (problem,) = scene.it.problems()
    assert problem.code == "config-invalid"
    assert "/c: mode: 'x' is no mode" in problem.message
    assert caplog.text.count("the configuration stays as it was") == 1
    assert scene.it.config == CONFIG
    assert scene.take(CONFIG) == ""
    assert scene.it.problems() == []
    assert "can be used again" in caplog.text


def test_the_nodes_pod_cidrs_are_the_nodes() -> None:
    """With NodeCIDR a file has none to say, and what the Node has said stays."""
    options = Options("node-1", detect_local_mode=DetectLocalMode.NODE_CIDR)
    scene = Scene(CONFIG._replace(options=options))
    changed = options._replace(masquerade_all=True)
    assert scene.take(CONFIG._replace(options=changed)) == ""
    assert scene.world.options.local_cidrs == NODE.pod_cidrs
    assert scene.world.options.masquerade_all


def test_a_file_that_cannot_run_here_is_bad() -> None:
    """Whatever raises, when it is read or when the node is looked at, keeps the agent as it is."""

    def refuse(*_: object) -> Chosen:
        raise ConfigError("no such cgroup", "mount it")

    good = Chosen(CONFIG, ())
    seen: list[RunConfig] = []
    assert reread(lambda: good, seen.append) == Reread(good)
    assert seen == [CONFIG]
    assert reread(refuse, seen.append) == Reread(None, "no such cgroup: mount it")
    assert reread(lambda: good, cast("Any", refuse)) == Reread(None, "no such cgroup: mount it")
