# SPDX-License-Identifier: Apache-2.0
"""The agent: one process on one node, from events to maps.

Watchers only put events on the queue; the thread that runs Agent.run() owns all state.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyproxy
from pyproxy.agent import report
from pyproxy.agent.config import RunConfig
from pyproxy.agent.cover import Cover
from pyproxy.agent.filtered import Filtered
from pyproxy.agent.former import FormerProxy
from pyproxy.agent.forwarding import Forwarding
from pyproxy.agent.health import Healthiness
from pyproxy.agent.hostsetup import LateTracking
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.kernel import Loaded
from pyproxy.agent.messages import CoverChanged, Message, Messages, ServersChanged, Stop
from pyproxy.agent.meters import Meters
from pyproxy.agent.moves import Moves
from pyproxy.agent.ownips import OwnClusterIPs
from pyproxy.agent.problems import no_pod_cidrs, not_attached, not_known
from pyproxy.agent.reconfigure import Reconfiguring, Reread
from pyproxy.agent.reserving import Reserving
from pyproxy.agent.serving import Serving
from pyproxy.agent.sync import Syncers
from pyproxy.agent.upkeep import Upkeep
from pyproxy.kernel import cleanup, sweep
from pyproxy.kernel.pins import other_layouts
from pyproxy.kube.events import Change, Event, Report, Trouble
from pyproxy.kube.notices import Tell
from pyproxy.model import Family, ServicePortName, address_text
from pyproxy.plan.options import DetectLocalMode, Options, lacks_pod_cidrs
from pyproxy.tables import Kind, PortPlan

log = logging.getLogger(__name__)

IDLE_S = 0.5  # how long nothing must happen before replaced slots are freed
REPORT_EVERY_S = 0.1
REPORT_AGAIN_S = 5.0  # where the run-dir could not be written


def _is_cluster_only(plan: PortPlan | None) -> bool:
    """Return whether a plan that was changed has no port that the node's sockets could get."""
    return plan is not None and all(each.kind is Kind.CLUSTER_IP for each in plan.frontends)


def _pod_networks(options: Options) -> list[str]:
    """Return the cluster's CIDRs; those of NodeCIDR mode are one node's."""
    if options.detect_local_mode is not DetectLocalMode.CLUSTER_CIDR:
        return []
    return [f"{address_text(each.address)}/{each.length}" for each in options.local_cidrs]


class Agent:
    """Keeps one node's datapath equal to the objects it is told of."""

    def __init__(
        self,
        config: RunConfig,
        loaded: dict[Family, Loaded],
        cover: Cover,
        moves: Moves,
        messages: Messages,
        *,
        inbox: Inbox,
        health: Healthiness,
        serving: Serving,
        tell: Tell,
        meters: Meters,
    ) -> None:
        self._config = config
        self._cover = cover
        self._moves = moves
        self._messages = messages
        self._health = health
        self._serving = serving
        self._tell = tell
        self._inbox = inbox
        self._loaded = tuple(loaded.values())
        paths = (each.path for each in self._loaded)
        self._reconfiguring = Reconfiguring(config, paths, self._inbox.world)
        self._meters = meters
        self._syncers = Syncers(loaded, self._meters)
        datapaths = {family: each.datapath for family, each in loaded.items()}
        self._own_ips = OwnClusterIPs(datapaths, cover)
        self._filtered = Filtered(cover)
        self._reserving = Reserving(self._loaded[0].pins.shared)
        self._forwarding = Forwarding(loaded, config.options.forward_mark)
        self._former_proxy = FormerProxy(config.run_dir, wanted=config.remove_kube_proxy_rules)
        self._tracking = LateTracking(lambda: self.config.conntrack)
        root, period_s = config.cgroup_root, config.sync_period_s
        self._upkeep = Upkeep(root, loaded, self._syncers, period_s, more=self._looks())
        self._reporter = report.Reporter(config.run_dir)
        self._changed, self._report_due = True, 0.0
        self._synced = self._has_planned = False

    def _looks(self) -> tuple[Callable[[], None], ...]:
        """Return what is looked at once a period, besides what the maps hold."""
        return (
            self._reserve,
            self._own_ips.look,
            self._forwarding.keep,
            self._retry_checks,
            self._former_proxy.look,
            self._tracking.look,
        )

    @property
    def config(self) -> RunConfig:
        """The configuration in force: servers' threads may read it."""
        return self._reconfiguring.config

    def service_ids(self, family: Family) -> Mapping[ServicePortName, int]:
        """Return the ids of a family's service ports: servers' threads may ask."""
        return self._syncers.service_ids(family)

    def lacks(self) -> str:
        """Return why this agent is not ready, "" if it is; servers' threads may ask."""
        return self.ails() or ("" if self._synced else "it has not synced yet")

    def ails(self) -> str:
        """Return what a new start may mend, "" if nothing is wrong; servers' threads may ask."""
        return "" if self._health.is_healthy() else "/livez says that a family is unhealthy"

    def stop(self) -> None:
        """End what goes on besides run()."""
        self._former_proxy.stop()

    def run(self) -> Stop:
        """Handle messages until Stop; return it.

        Raises PinsGoneError where everything has to be loaded anew.
        """
        while True:
            messages = self._messages.wait(self._patience())
            self._health.begin(self._messages.taken_at)
            stops = [each for each in messages if isinstance(each, Stop)]
            if stops:
                self._report()
                return stops[0]
            is_due = self._synced and not self._upkeep.patience()
            if messages or not is_due:
                self._handle(messages)
            if is_due:
                self._upkeep.step()

    def _patience(self) -> float | None:
        """Return for how many seconds the queue may stay silent before something is due."""
        due: list[float | None] = []
        if self._synced and self._syncers.has_idle_work:
            due.append(IDLE_S)
        if self._synced:
            due.append(self._upkeep.patience())
        if self._changed:
            due.append(max(self._report_due - time.monotonic(), 0))
        if self._syncers.retry_at is not None:
            due.append(max(self._syncers.retry_at - time.monotonic(), 0))
        due.append(self._serving.patience())
        return min((each for each in due if each is not None), default=None)

    def _handle(self, messages: list[Message]) -> None:
        for each in messages:
            if isinstance(each, CoverChanged | ServersChanged | Report | Reread | Trouble):
                # worth telling before anything is synced, and then above all
                self._changed = True
            if isinstance(each, CoverChanged) and self._synced:
                self._end_moves()
            if isinstance(each, Change):
                self._meters.changed(each)
            if isinstance(each, Reread):
                self._reconfigure(each)
            elif isinstance(each, Event):
                self._inbox.take(each)
        if self._inbox.synced:
            self._sync(messages)
        self._tell_servers()
        if self._changed and time.monotonic() >= self._report_due:
            self._report()

    def _reconfigure(self, message: Reread) -> None:
        reason = self._reconfiguring.take(message)
        if reason:
            self._messages.put(Stop(reason, "start it again, if nothing does so by itself"))

    def _tell_servers(self) -> None:
        """Say what the servers answer from now on, once it is so."""
        world = self._inbox.world
        self._health.settle(self._syncers.unwritten, has_lists=self._inbox.synced)
        self._health.know_node(world.node, must_be_known=self._config.manifests is None)
        self._health.know_devices(covered=not (self._cover.failures or self._cover.facts_failure))
        self._serving.open(self._inbox)
        if self._synced and self._serving.serve(
            world.health_checks, world.options, self._syncers.written
        ):
            self._changed = True

    def _retry_checks(self) -> None:
        world = self._inbox.world
        if self._serving.retry(world.health_checks, world.options):
            self._changed = True

    def _sync(self, messages: list[Message]) -> None:
        changes = self._inbox.world.replan()
        if not self._has_planned:
            # who has waited to take over has planned before
            self._has_planned, changes = True, dict(self._inbox.world.plans)
        self._meters.planned(changes)
        self._cover.use(self._inbox.world.options)
        self._filtered.take(changes)
        retry_at = self._syncers.retry_at
        is_due = retry_at is not None and time.monotonic() >= retry_at
        mended = not all(map(self._inbox.may_lack, self._syncers.kept))
        if changes or not self._synced or is_due or mended:
            self._syncers.apply(changes, self._inbox.may_lack)
            if not all(map(_is_cluster_only, changes.values())):
                self._reserve()
            self._tell(self._syncers.notes, self._inbox.world.uid_of)
            self._changed = True
        elif messages:
            self._changed = True
        else:
            self._syncers.idle()
        self._meters.settled(self._syncers.failed)
        self._syncers.restrict(self._inbox.world.options)
        self._own_ips.look()
        if not self._synced and not self._syncers.failed:
            self._forwarding.keep()
            self._synced = True
            services, endpoints = self._syncers.counts()
            log.info("synced: %d services with %d endpoints", services, endpoints)
            self._take_over()
            self._former_proxy.look()
            # what is there now mostly stays: later collections leave it out
            gc.freeze()
            gc.enable()
            self._report()

    def _reserve(self) -> None:
        """Keep ports of services from sockets; an operator may have changed the sysctl, too."""
        self._reserving.keep(self._syncers.node_ports())

    def _take_over(self) -> None:
        """End what agents of other layouts have left: until now it has served the node."""
        others = other_layouts(self._config.bpffs_root)
        if others:
            self._replace(others)
            # their ports were given back with them
            self._reserve()
        self._end_moves()

    def _end_moves(self) -> None:
        """Forget former connection tables, once no program can open connections there."""
        if not self._cover.failures and not other_layouts(self._config.bpffs_root):
            self._moves.run()
            self._moves.finish()

    def _replace(self, others: list[Path]) -> None:
        # connections that are in the table already have not been marked for our programs
        for each in self._loaded:
            sweep.mark(sweep.of_connections(each.connections), each.datapath.marks)
        try:
            gone = cleanup.forget_layouts(others)
        except OSError as error:
            log.warning("programs of another layout cannot be detached: %s", error)
        else:
            log.info("took over from an agent of another layout: %d pins removed", gone)

    def _report(self) -> None:
        services, endpoints = self._syncers.counts()
        problems = self._reconfiguring.problems()
        problems += self._inbox.problems() + self._syncers.problems()
        problems += self._reserving.problems() + self._forwarding.problems()
        problems += self._serving.problems()
        problems += [not_attached(each) for each in self._cover.failures]
        if self._cover.facts_failure:
            problems.append(not_known(self._cover.facts_failure))
        options = self._inbox.world.options
        if self._synced and lacks_pod_cidrs(options):
            problems.append(no_pod_cidrs(options.node_name))
        state = report.State(
            pid=os.getpid(),
            version=pyproxy.__version__,
            node=self._config.options.node_name,
            cgroup_root=str(self._config.cgroup_root),
            devices=list(self._config.devices),
            synced=self._synced,
            last_sync=self._syncers.last_success,
            last_sync_seconds=self._syncers.last_seconds,
            services=services,
            endpoints=endpoints,
            refused=self._syncers.refused,
            malformed=len(self._inbox.reports),
            problems=problems,
            pod_networks=_pod_networks(self.config.options),
        )
        self._meters.state, self._meters.maps = state, self._syncers.map_uses()
        self._changed = not self._reporter.write(state)
        pause = REPORT_AGAIN_S if self._changed else REPORT_EVERY_S
        self._report_due = time.monotonic() + pause
