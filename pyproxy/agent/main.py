# SPDX-License-Identifier: Apache-2.0
"""Start and end of an agent."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pyproxy
from pyproxy.agent import hostsetup, report
from pyproxy.agent.bridged import Bridged
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.cover import Cover
from pyproxy.agent.ending import crashed, watch_signals
from pyproxy.agent.health import Healthiness
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.kernel import Loaded, Loading, families, forget_former_programs
from pyproxy.agent.messages import CoverChanged, Messages, Stop
from pyproxy.agent.meters import Meters
from pyproxy.agent.moves import Moves
from pyproxy.agent.probes import Probes
from pyproxy.agent.reconfigure import reread
from pyproxy.agent.run import Agent
from pyproxy.agent.scrape import Scrape
from pyproxy.agent.serving import Serving, bind_failed
from pyproxy.agent.sweeper import Sweeper
from pyproxy.agent.traffic import ServiceTraffic
from pyproxy.agent.upkeep import PinsGoneError
from pyproxy.agent.waiting import Waiting
from pyproxy.errors import ConfigError, PyproxyError
from pyproxy.kernel import cgroup, features, sockets
from pyproxy.kernel.addresses import interface_addresses
from pyproxy.kernel.devices import Watch
from pyproxy.kernel.load import LoadingEndedError
from pyproxy.kernel.lock import AgentRunningError, Lock, check_places
from pyproxy.kernel.mounts import NODES_BPFFS, bpffs_of, outlives_us
from pyproxy.kernel.pins import other_layouts
from pyproxy.kernel.requirements import need
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.events import Put, Source
from pyproxy.kube.filewatch import FileWatch
from pyproxy.kube.manifests import ManifestSource
from pyproxy.kube.notices import Teller, TellNobody
from pyproxy.model import Family
from pyproxy.plan.options import Mode
from pyproxy.serve.health import HealthServer
from pyproxy.serve.http import HttpServer

log = logging.getLogger(__name__)


def check_node(config: RunConfig) -> None:
    """Raise what keeps an agent from running here at all."""
    if os.geteuid() != 0:
        raise PyproxyError("the agent needs root", "run it as root or with sudo")
    cgroup.check(config.cgroup_root)
    bpffs = bpffs_of(config.bpffs_root)
    if bpffs is None:
        raise ConfigError(
            f"--bpffs-root {config.bpffs_root} is not on a bpffs",
            "mount one on the node with 'mount -t bpf bpf /sys/fs/bpf'",
        )
    if not outlives_us(bpffs):
        raise ConfigError(
            f"what is pinned at --bpffs-root {config.bpffs_root} ends with this container",
            NODES_BPFFS,
        )
    need(config.cgroup_root, config.bpffs_root)


def prepare(config: RunConfig) -> None:
    """Do what needs more rights than serving does, and no more (parity A17.5)."""
    check_node(config)
    hostsetup.set_conntrack(config.conntrack)


def run(chosen: Chosen, choose: Callable[[], Chosen]) -> None:
    """Run an agent until SIGTERM or SIGINT; raises PyproxyError if it cannot start.

    `choose` reads the configuration's files again.
    """
    config = chosen.config
    check_node(config)
    lock = _lock(config)
    for remark in chosen.remarks:
        log.warning("%s", remark)
    hostsetup.set_oom_score(config.oom_score_adj)
    messages = Messages()
    stopping = watch_signals(messages)
    threading.excepthook = lambda crash: messages.put(crashed(crash))
    # a start makes many objects and drops few: the collector would only walk them in vain
    gc.disable()
    try:
        _run(config, choose, messages, stopping, lock)
    except LoadingEndedError:
        log.info("stopped before the programs were loaded")
    except PinsGoneError as error:
        log.warning("%s: starting anew", error)
        # which lets go of the lock, too
        _start_anew()
    finally:
        if lock:
            lock.release()
    log.info("stopped; what is loaded stays and goes on serving")


def _lock(config: RunConfig) -> Lock | None:
    """Return the lock, None where another agent has it whose end is to be waited for."""
    try:
        return Lock(config.run_dir, config.bpffs_root)
    except AgentRunningError:
        if config.take_over:
            return None
        raise


def _start_anew() -> None:
    """Become the same command again: what is missing is loaded, and every map is written."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - it is ourselves


def _run(
    config: RunConfig,
    choose: Callable[[], Chosen],
    messages: Messages,
    stopping: threading.Event,
    lock: Lock | None,
) -> None:
    with contextlib.ExitStack() as running:
        meters = Meters(families(), config.proxy_mode)
        teller = _teller(config, running, meters.api)
        http, inbox = HttpServer(), Inbox(config.options)
        probes = Probes()
        parts = _Parts(config, messages, running, running, meters, teller, http, probes, inbox)
        http.start()
        running.callback(http.stop)
        probes.serve(http, config.probe_socket)
        end: Stop | Lock = lock or _await_turn(parts)
        if isinstance(end, Lock):
            end = _serve(parts, choose, stopping, end, has_waited=lock is None)
    if end.reason:
        raise PyproxyError(end.reason, end.remedy)


def _await_turn(parts: _Parts) -> Lock | Stop:
    """Prepare to take over from the agent that runs; return the lock, or what ends the wait."""
    waiting = Waiting(parts.config, parts.messages, parts.inbox, lambda: _start_source(parts))
    parts.probes.lacks = waiting.lacks
    return waiting.run()


def _serve(
    parts: _Parts,
    choose: Callable[[], Chosen],
    stopping: threading.Event,
    lock: Lock,
    *,
    has_waited: bool,
) -> Stop:
    """Serve the node until Stop, and let go of the lock as soon as nothing here writes any more."""
    config = parts.config
    with contextlib.ExitStack() as running:
        running.callback(lock.release)
        # ports are free before the lock is: who waits for it wants them, too
        running.callback(parts.http.stop)
        parts = parts._replace(running=running)
        hostsetup.set_conntrack(config.conntrack)
        # the one before may have had the same pid, in a container of its own
        with contextlib.suppress(OSError):
            report.remove(config.run_dir)
        # programs compile while the objects are read
        loading = Loading(config, features.probe(), has_waited=has_waited)
        running.callback(loading.abandon)
        scrape = _scrape(parts)
        if not has_waited:
            _start_source(parts)
        loaded = loading.finish(lambda: not stopping.is_set())
        cover, moves = _cover_devices(parts, loading, loaded)
        scrape.figures.pins = tuple(each.pins for each in loaded.values())
        agent = _agent(parts, loaded, cover, moves, scrape)
        if config.files:
            running.callback(_watch_files(config, choose, parts.messages).stop)
        running.callback(agent.stop)
        return agent.run()


class _Parts(NamedTuple):
    """What all parts are handed: `running` ends them with the agent, `beyond` without hurry.

    What `beyond` ends writes nothing on this node and listens nowhere: the next agent may serve.
    """

    config: RunConfig
    messages: Messages
    running: contextlib.ExitStack
    beyond: contextlib.ExitStack
    meters: Meters
    teller: Teller
    http: HttpServer
    probes: Probes
    inbox: Inbox

    def bind_failed(self, reason: str) -> Callable[[str], None]:
        """Return what is done where a server cannot listen: an Event of this reason, or the end."""
        hard = self.config.bind_address_hard_fail
        return bind_failed(reason, self.teller, self.messages, hard=hard)


def check_again(config: RunConfig) -> None:
    """Raise what would keep an agent from starting again: the one that runs had better stay."""
    check_node(config)
    check_places(config.run_dir, config.bpffs_root)
    if not config.manifests:
        from pyproxy.kube.api_config import ApiSettings, Credentials  # noqa: PLC0415 - as in _source

        Credentials(ApiSettings(config.kubeconfig, config.master), time.time).check()


def _watch_files(config: RunConfig, choose: Callable[[], Chosen], messages: Messages) -> FileWatch:
    """Have the configuration's files read again whenever they change; they may have by now."""
    watch = FileWatch(config.files, lambda: messages.put(reread(choose, check_again)))
    watch.start()
    return watch


def _scrape(parts: _Parts) -> Scrape:
    """Serve metrics from the start on: an API server that is away shows there, too."""
    scrape = Scrape(parts.config, parts.meters)
    server = scrape.server(parts.bind_failed("FailedToStartMetricServer"))
    if server:
        server.start()
        parts.running.callback(server.stop)
    return scrape


def _cover_devices(
    parts: _Parts, loading: Loading, loaded: dict[Family, Loaded]
) -> tuple[Cover, Moves]:
    """Attach the packet path to all devices, and keep it there."""
    config, running = parts.config, parts.running
    bridged = Bridged({family: each.path for family, each in loaded.items()})
    cover = _cover(config, loading, loaded, bridged, parts.messages)
    watch = Watch(cover.refresh, config.sync_period_s)
    moves = _attach(config, loading, cover)
    bridged.start()
    running.callback(bridged.stop)
    watch.start()
    running.callback(watch.stop)
    # a device that still runs former ones needs their stages too
    if not cover.failures:
        forget_former_programs(loaded)
    sweeper = Sweeper(loaded.values())
    sweeper.start()
    running.callback(sweeper.stop)
    return cover, moves


def _agent(
    parts: _Parts, loaded: dict[Family, Loaded], cover: Cover, moves: Moves, scrape: Scrape
) -> Agent:
    """Return the agent, with all that tells others of it."""
    health = Healthiness(
        loaded,
        timeout_s=2 * parts.config.sync_period_s,
        queued_at=lambda: parts.messages.queued_at,
        are_attached=lambda family: sockets.are_attached(loaded[family].pins),
    )
    serving = _serving(parts, health)
    serving.metrics_failure = lambda: scrape.failure
    parts.teller.about_node("Starting", f"pyproxy {pyproxy.__version__}", kind="Normal")
    agent = Agent(
        parts.config,
        loaded,
        cover,
        moves,
        parts.messages,
        inbox=parts.inbox,
        health=health,
        serving=serving,
        tell=parts.teller.tell,
        meters=parts.meters,
    )
    parts.probes.lacks, parts.probes.ails = agent.lacks, agent.ails
    scrape.answers = serving.counts
    scrape.configuration = lambda: agent.config.configuration
    pins = {family: each.pins for family, each in loaded.items()}
    scrape.services = ServiceTraffic(pins, agent.service_ids)
    return agent


def _serving(parts: _Parts, health: Healthiness) -> Serving:
    """Return what answers over HTTP; nothing listens yet."""
    config, http = parts.config, parts.http
    healthz = None
    if config.healthz_bind_address:
        healthz = HealthServer(
            http,
            config.healthz_bind_address,
            health.health,
            failed=parts.bind_failed("FailedToStartProxierHealthcheck"),
            hard=config.bind_address_hard_fail,
        )
        parts.running.callback(healthz.stop)
    return Serving(
        config,
        http,
        healthz,
        is_healthy=health.is_healthy,
        teller=parts.teller,
        own=interface_addresses,
    )


def _cover(
    config: RunConfig,
    loading: Loading,
    loaded: dict[Family, Loaded],
    bridged: Bridged,
    messages: Messages,
) -> Cover:
    return Cover(
        loading.entries(loaded),
        {family: each.path for family, each in loaded.items()},
        config.options,
        config.devices,
        lambda: messages.put(CoverChanged()),
        bridged=bridged.use,
        check_s=config.sync_period_s,
    )


def _attach(config: RunConfig, loading: Loading, cover: Cover) -> Moves:
    """Attach the packet path to all devices; connections come along from other tables."""
    moves = loading.moves()
    moves.begin()
    cover.refresh()
    moves.run()
    # programs that could not be replaced, or of another layout, may open some there yet
    if not cover.failures and not other_layouts(config.bpffs_root):
        moves.finish()
    return moves


def _start_source(parts: _Parts) -> None:
    source = _source(parts.config, parts.messages.put, parts.meters.api)
    source.start()
    parts.beyond.callback(source.stop)


def _source(config: RunConfig, put: Put, meters: ApiMeters) -> Source:
    if config.manifests:
        return ManifestSource(config.manifests, put)
    # 0.25 s and 30 MB that manifests do not need
    from pyproxy.kube.api import ApiSource  # noqa: PLC0415
    from pyproxy.kube.api_config import ApiSettings  # noqa: PLC0415

    return ApiSource(
        ApiSettings(config.kubeconfig, config.master),
        config.options.node_name,
        put,
        # nobody else uses them: ten thousand nodes need not watch them
        service_cidrs=config.options.mode is Mode.NFTABLES,
        meters=meters,
    )


def _teller(config: RunConfig, running: contextlib.ExitStack, meters: ApiMeters) -> Teller:
    """Return who posts Events to the API server; where there is none, nobody does."""
    if config.manifests:
        return TellNobody()
    from pyproxy.kube.announcer import Announcer  # noqa: PLC0415 - as in _source
    from pyproxy.kube.api_config import ApiSettings  # noqa: PLC0415

    settings = ApiSettings(config.kubeconfig, config.master)
    announcer = Announcer(settings, config.options.node_name, meters=meters)
    running.callback(announcer.stop)
    return announcer
