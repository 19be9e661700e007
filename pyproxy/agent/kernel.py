# SPDX-License-Identifier: Apache-2.0
"""Bringing the datapath up: programs loaded and attached, maps open."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pyproxy.agent.config import RunConfig
from pyproxy.agent.messages import Prepared
from pyproxy.agent.moves import Moves
from pyproxy.errors import PyproxyError
from pyproxy.kernel import features as kernel_features
from pyproxy.kernel import load, sockets
from pyproxy.kernel.connections import Connections
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.entries import Entries
from pyproxy.kernel.features import Features
from pyproxy.kernel.move import Move
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.kernel.pins import Pins, remove_tree
from pyproxy.kernel.programs import FORMER_TABLES
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family

log = logging.getLogger(__name__)

IF_INET6 = Path("/proc/net/if_inet6")
AGAIN_S = 30.0


def families(if_inet6: Path = IF_INET6) -> tuple[Family, ...]:
    """Return the families this node has: IPv6 unless the kernel goes without (parity A3.3)."""
    return (Family.IPV4, Family.IPV6) if if_inet6.exists() else (Family.IPV4,)


class Loaded(NamedTuple):
    """One family in the kernel; `pinned` are the pins of all programs and maps."""

    pins: Pins
    digest: str
    datapath: KernelDatapath
    path: PacketPath
    connections: Connections
    pinned: tuple[Path, ...] = ()

    @property
    def programs(self) -> Path:
        """Where its programs are pinned."""
        return self.pins.programs(self.digest)


def _requests(config: RunConfig, features: Features) -> list[load.Request]:
    sizes = Sizes(max_connections=config.connections.max_entries)
    root, kept = config.bpffs_root, config.cache_dir
    return [load.Request(root, each, features, sizes, cache_dir=kept) for each in families()]


class Ahead:
    """Has programs compiled, and loaded if that can be, while another agent runs (load.Request).

    It begins at once, in a thread; `done` is called with what came of it. What failed is tried
    again.
    """

    def __init__(self, config: RunConfig, done: Callable[[Prepared], None]) -> None:
        self._requests = _requests(config, kernel_features.probe())
        for each in self._requests:
            each.ahead = True
        # one that was killed may have left some
        self._forget()
        self._stopping = threading.Event()
        self._done = done
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def stop(self, *, forget: bool) -> None:
        """End what still goes on; `forget` what was loaded, if nobody will use it."""
        self._stopping.set()
        self._thread.join()
        if forget:
            self._forget()

    def _forget(self) -> None:
        for each in self._requests:
            each.pins.forget_ahead(each.build().digest)

    def _run(self) -> None:
        while not self._stopping.is_set():
            failure = self._load()
            self._done(Prepared(failure))
            if not failure:
                return
            self._stopping.wait(AGAIN_S)

    def _load(self) -> str:
        """Return why it failed, "" if it did not."""
        try:
            child = load.start(self._requests)
            said = load.finish(child, lambda: not self._stopping.is_set())
        except (PyproxyError, OSError) as error:
            return str(error)
        for line in said.splitlines():
            log.info("%s", line)
        return ""


class Loading:
    """Loads what is not pinned yet in a child; finish() waits for it and opens the maps.

    `has_waited`: programs may have been loaded ahead.
    """

    def __init__(self, config: RunConfig, features: Features, *, has_waited: bool = False) -> None:
        self._config = config
        self._features = features
        self._requests = _requests(config, features)
        for request in self._requests:
            request.formers = _former_tables(request)
            if has_waited:
                request.pins.use_ahead(request.build().digest)
        self._missing = [
            each for each in self._requests if each.formers or not load.is_loaded(each)
        ]
        self._child = load.start(self._missing) if self._missing else None

    def finish(self, is_wanted: Callable[[], bool] = lambda: True) -> dict[Family, Loaded]:
        """Return every family, its programs attached to the cgroup.

        Raises load.LoadingEndedError as soon as `is_wanted` says no.
        """
        if self._child:
            for line in load.finish(self._child, is_wanted).splitlines():
                log.info("%s", line)
            names = " and ".join(each.family.label for each in self._missing)
            log.info("loaded the programs for %s", names)
        return {request.family: self._attach(request) for request in self._requests}

    def moves(self) -> Moves:
        """Return the moves of connections out of tables of other sizes.

        Call it after finish(), and before programs are attached to devices.
        """
        for request in self._requests:
            request.pins.mark_used(request.sizes.max_connections)
        return Moves([Move(request) for request in self._requests if request.formers])

    def abandon(self) -> None:
        """End a loader that still runs."""
        if self._child and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def entries(self, loaded: dict[Family, Loaded]) -> Entries:
        """Return the packet path, to be attached to devices."""
        entries = Entries(
            self._config.bpffs_root,
            {family: each.programs for family, each in loaded.items()},
            self._config.run_dir,
            tcx=self._features.tcx,
        )
        entries.join()
        return entries

    def _attach(self, request: load.Request) -> Loaded:
        pins, digest = request.pins, request.build().digest
        path = PacketPath(pins)
        path.configure(
            self._config.options,
            self._config.socket_translation,
            self._config.connections.timeouts,
            self._config.connections.source_ports,
        )
        changed = sockets.attach(pins, digest, self._config.cgroup_root)
        if changed:
            where = self._config.cgroup_root
            log.info("attached %d %s socket programs to %s", changed, request.family.label, where)
        connections = Connections(request.connections, pins.maps)
        pinned = tuple(filter(Path.exists, load.pinned(request)))
        return Loaded(pins, digest, KernelDatapath(pins), path, connections, pinned)


def _former_tables(request: load.Request) -> tuple[Path, ...]:
    """Return where former connection tables are, the newest first."""
    request.pins.set_aside(request.sizes.max_connections)
    tables = [each for each in request.pins.connection_tables() if each != request.connections]
    formers, rest = tables[-FORMER_TABLES:], tables[:-FORMER_TABLES]
    for table in rest:
        log.warning("forgot the connections in %s: too many moves were begun and not ended", table)
        remove_tree(table)
    return tuple(reversed(formers))


def forget_former_programs(loaded: dict[Family, Loaded]) -> None:
    """Unpin programs of other digests: nothing runs them once every link was updated."""
    for each in loaded.values():
        for directory in each.pins.program_directories():
            if directory != each.pins.programs(each.digest):
                remove_tree(directory)
