# SPDX-License-Identifier: Apache-2.0
"""Configuration that changes while the agent runs (parity A15.11).

kube-proxy ends whenever its file changes. Here what can change live does, and what cannot be
used changes nothing; for everything else the agent ends, for its supervisor to start it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pyproxy.agent import hostsetup, logs
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.problems import Problem, config_invalid
from pyproxy.errors import PyproxyError
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.kube.proxylogging import LogSettings
from pyproxy.plan.options import DetectLocalMode, Options
from pyproxy.plan.world import World
from pyproxy.tables import ConnectionTimeouts, Conntrack

log = logging.getLogger(__name__)

UPDATED = "content of the proxy server's configuration file was updated"

LIVE_OPTIONS = (
    "allow_service_external_ips",
    "hide_clients",
    "ipv6_localhost_node_ports",
    "local_cidrs",
    "local_interface",
    "localhost_node_ports",
    "masquerade_all",
    "node_port_addresses",
    "node_ports_on_primary",
    "protect_node_ports",
    "same_uplink",
)
"""The options that a plan or the packet path can take over at any time.

All other fields of RunConfig but those of _fixed() name what is opened, bound, loaded or watched
once.
"""


class Reread(NamedTuple):
    """The configuration's files were read again: what they come to, or why they cannot be used."""

    chosen: Chosen | None
    error: str = ""


def reread(choose: Callable[[], Chosen], check: Callable[[RunConfig], None]) -> Reread:
    """Return what the files come to now; `check` raises PyproxyError where it cannot run here."""
    try:
        chosen = choose()
        check(chosen.config)
    except PyproxyError as error:
        return Reread(None, str(error))
    return Reread(chosen)


class Reconfiguring:
    """Takes over changed configuration; one thread owns it, as it owns the world."""

    def __init__(self, config: RunConfig, paths: Iterable[PacketPath], world: World) -> None:
        self.config = config
        self._paths = tuple(paths)
        self._world = world
        self._error = ""
        self._remarks: tuple[str, ...] | None = None  # those of the start are logged already

    def take(self, message: Reread) -> str:
        """Take over what can be; return why the agent is to end, "" if it need not."""
        if message.chosen is None:
            if message.error != self._error:
                log.error("the configuration stays as it was: %s", message.error)
            self._error = message.error
            return ""
        if self._error:
            log.info("the configuration can be used again")
            self._error = ""
        wanted, remarks = message.chosen
        if _fixed(wanted) != _fixed(self.config):
            return UPDATED
        known = remarks if self._remarks is None else self._remarks
        if wanted != self.config or remarks != known:
            for remark in remarks:
                log.warning("%s", remark)
        self._remarks = remarks
        if wanted != self.config:
            self._apply(wanted)
        return ""

    def problems(self) -> list[Problem]:
        """Return what is wrong with the files."""
        return [config_invalid(self._error)] if self._error else []

    def _apply(self, wanted: RunConfig) -> None:
        logs.configure(wanted.logging)
        if wanted.connections != self.config.connections:
            for path in self._paths:
                path.write_timeouts(wanted.connections.timeouts)
        if wanted.conntrack != self.config.conntrack:
            hostsetup.set_conntrack(wanted.conntrack)
        if wanted.oom_score_adj != self.config.oom_score_adj:
            hostsetup.set_oom_score(wanted.oom_score_adj)
        self._world.set_options(self._world.options._replace(**_live(wanted.options)))
        self.config = wanted
        log.info("changed configuration is in force")


def _live(options: Options) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in LIVE_OPTIONS}
    if options.detect_local_mode is DetectLocalMode.NODE_CIDR:
        # they are the Node's
        values.pop("local_cidrs")
    return values


def _fixed(config: RunConfig) -> RunConfig:
    """Return a configuration without what can change live, to compare the rest."""
    return config._replace(
        options=config.options._replace(**_live(Options(""))),
        connections=config.connections._replace(timeouts=ConnectionTimeouts()),
        conntrack=Conntrack(),
        oom_score_adj=0,
        logging=LogSettings(),
        configuration={},
    )
