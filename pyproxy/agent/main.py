# SPDX-License-Identifier: Apache-2.0
"""Start and end of an agent."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable

from pyproxy.agent import report
from pyproxy.agent.bridged import Bridged
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.cover import Cover
from pyproxy.agent.kernel import Loaded, Loading, families, forget_former_programs
from pyproxy.agent.meters import Meters
from pyproxy.agent.moves import Moves
from pyproxy.agent.reconfigure import reread
from pyproxy.agent.run import Agent, CoverChanged, Message, Stop
from pyproxy.agent.scrape import Scrape
from pyproxy.agent.sweeper import Sweeper
from pyproxy.agent.traffic import ServiceTraffic
from pyproxy.agent.upkeep import PinsGoneError
from pyproxy.errors import ConfigError, PyproxyError
from pyproxy.kernel import cgroup, features
from pyproxy.kernel.devices import Watch
from pyproxy.kernel.load import LoadingEndedError
from pyproxy.kernel.lock import Lock
from pyproxy.kernel.pins import is_bpffs, other_layouts
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.events import Put, Source
from pyproxy.kube.filewatch import FileWatch
from pyproxy.kube.manifests import ManifestSource
from pyproxy.kube.notices import Tell, tell_nobody
from pyproxy.model import Family
from pyproxy.plan.options import Mode
from pyproxy.serve.health import HealthServer

log = logging.getLogger(__name__)


def check_node(config: RunConfig) -> None:
    """Raise what keeps an agent from running here at all."""
    if os.geteuid() != 0:
        raise PyproxyError("the agent needs root", "run it as root or with sudo")
    cgroup.check(config.cgroup_root)
    if not is_bpffs(config.bpffs_root):
        raise ConfigError(
            f"--bpffs-root {config.bpffs_root} is not on a bpffs",
            "mount one with 'mount -t bpf bpf /sys/fs/bpf'",
        )


def prepare(config: RunConfig) -> None:
    """Do what needs more rights than serving does, and no more (parity A17.5)."""
    check_node(config)


def run(config: RunConfig, choose: Callable[[], Chosen] | None = None) -> None:
    """Run an agent until SIGTERM or SIGINT; raises PyproxyError if it cannot start.

    `choose` reads the configuration's files again.
    """
    prepare(config)
    lock = Lock(config.run_dir, config.bpffs_root)
    # the one before may have had the same pid, in a container of its own
    with contextlib.suppress(OSError):
        report.remove(config.run_dir)
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    stopping = _watch_signals(messages)
    threading.excepthook = lambda crash: messages.put(_crashed(crash))
    # a start makes many objects and drops few: the collector would only walk them in vain
    gc.disable()
    try:
        _run(config, choose, messages, stopping)
    except LoadingEndedError:
        log.info("stopped before the programs were loaded")
    except PinsGoneError as error:
        log.warning("%s: starting anew", error)
        # which lets go of the lock, too
        _start_anew()
    finally:
        lock.release()
    log.info("stopped; what is loaded stays and goes on serving")


def _start_anew() -> None:
    """Become the same command again: what is missing is loaded, and every map is written."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - it is ourselves


def _run(
    config: RunConfig,
    choose: Callable[[], Chosen] | None,
    messages: queue.SimpleQueue[Message],
    stopping: threading.Event,
) -> None:
    with contextlib.ExitStack() as running:
        # programs compile while the objects are read
        loading = Loading(config, features.probe())
        running.callback(loading.abandon)
        meters, scrape = _scrape(config, running)
        source = _source(config, messages.put, meters.api)
        source.start()
        running.callback(source.stop)
        loaded = loading.finish(lambda: not stopping.is_set())
        bridged = Bridged({family: each.path for family, each in loaded.items()})
        cover = _cover(config, loading, loaded, bridged, messages)
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
        tell = _teller(config, running, meters.api)
        agent = Agent(config, loaded, cover, moves, messages, tell=tell, meters=meters)
        _show(scrape, agent, loaded)
        _serve_health(config, agent, running)
        if choose and config.files:
            running.callback(_watch_files(config, choose, messages).stop)
        stop = agent.run()
    if stop.reason:
        raise PyproxyError(stop.reason, stop.remedy)


def _serve_health(config: RunConfig, agent: Agent, running: contextlib.ExitStack) -> None:
    if config.healthz_bind_address:
        server = HealthServer(config.healthz_bind_address, agent.health)
        server.start()
        running.callback(server.stop)


def _watch_files(
    config: RunConfig, choose: Callable[[], Chosen], messages: queue.SimpleQueue[Message]
) -> FileWatch:
    """Have the configuration's files read again whenever they change; they may have by now."""
    watch = FileWatch(config.files, lambda: messages.put(reread(choose, check_node)))
    watch.start()
    return watch


def _cover(
    config: RunConfig,
    loading: Loading,
    loaded: dict[Family, Loaded],
    bridged: Bridged,
    messages: queue.SimpleQueue[Message],
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


def _scrape(config: RunConfig, running: contextlib.ExitStack) -> tuple[Meters, Scrape]:
    """Serve metrics from the start on: an API server that is away shows there, too."""
    meters = Meters(families(), config.proxy_mode)
    scrape = Scrape(config, meters)
    server = scrape.server(scrape.contents(), lambda _: None)
    if server:
        server.start()
        running.callback(server.stop)
    return meters, scrape


def _show(scrape: Scrape, agent: Agent, loaded: dict[Family, Loaded]) -> None:
    """Let scrapes see what is in the kernel, and what is in force.

    The maps stay open to the end: a scrape may be reading them until then.
    """
    pins = {family: each.pins for family, each in loaded.items()}
    scrape.figures.pins = tuple(pins.values())
    scrape.services = ServiceTraffic(pins, agent.service_ids)
    scrape.config = lambda: agent.config


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


def _teller(config: RunConfig, running: contextlib.ExitStack, meters: ApiMeters) -> Tell:
    """Return who posts Events to the API server; where there is none, nobody does."""
    if config.manifests:
        return tell_nobody
    from pyproxy.kube.announcer import Announcer  # noqa: PLC0415 - as in _source
    from pyproxy.kube.api_config import ApiSettings  # noqa: PLC0415

    settings = ApiSettings(config.kubeconfig, config.master)
    announcer = Announcer(settings, config.options.node_name, meters=meters)
    running.callback(announcer.stop)
    return announcer.tell


def _watch_signals(messages: queue.SimpleQueue[Message]) -> threading.Event:
    """Put Stop when SIGTERM or SIGINT arrives, whichever thread the kernel gives it to.

    Returns an event that is set then, for who is not at the queue yet.

    A Python handler runs only when the main thread wakes up, and a signal that another thread
    received does not wake it; the wake-up descriptor is written by the C handler itself.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    stopping = threading.Event()

    def wait() -> None:
        os.read(reader, 1)
        stopping.set()
        messages.put(Stop())

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stopping


def _crashed(crash: threading.ExceptHookArgs) -> Stop:
    """Log a thread's unexpected end: an agent that no longer hears of changes must not go on."""
    name = crash.thread.name if crash.thread else "?"
    log.critical("the thread %s ended unexpectedly", name, exc_info=crash.exc_value)
    return Stop(f"the thread {name} ended unexpectedly: {crash.exc_value}")
