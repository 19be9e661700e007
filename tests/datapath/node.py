# SPDX-License-Identifier: Apache-2.0
"""A node without an agent: programs loaded and attached, maps written by the syncers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pyproxy.agent.sync import serves
from pyproxy.kernel import inspect, libbpf, links, load, sockets
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.features import probe
from pyproxy.kernel.pins import Pins
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family, Protocol
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import PortPlan
from tests.datapath import children
from tests.datapath.answering import answer
from tests.datapath.asking import open_socket
from tests.datapath.children import Board, Broker, Child, Where
from tests.datapath.flavours import BACKENDS, Flavour
from tests.lab import cgroups, netns
from tests.lab.waiting import wait_for

T = TypeVar("T")


class Loaded(NamedTuple):
    """One family in the kernel."""

    request: load.Request
    digest: str
    datapath: KernelDatapath

    @property
    def pins(self) -> Pins:
        """Where it is pinned."""
        return self.request.pins

    @property
    def programs(self) -> Path:
        """Where its programs are pinned."""
        return self.pins.programs(self.digest)


class Node:
    """A cgroup, a namespace and a bpffs of the tests' own, with both families in the kernel.

    `sizes` are the maps' where they are not the default ones.
    """

    def __init__(self, directory: Path, sizes: Sizes | None = None) -> None:
        self.directory = directory
        self._sizes = sizes
        self._undo = ExitStack()
        self.syncers: dict[Family, Syncer] = {}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _build(self) -> None:
        self.bpffs = self._mount_bpffs()
        self.cgroup = self._make_cgroup()
        self.namespace = self.make_namespace("node", self._undo)
        self.where = Where(self.namespace, self.cgroup)
        self.loaded = self._load(self.bpffs / "pyproxy")
        self.make_syncers()
        self._backends = self._start_backends()
        self._undo.callback(self._backends.end)
        self._broker = Broker(self.where)
        self._undo.callback(self._broker.close)

    def _mount_bpffs(self) -> Path:
        path = self.directory / "bpffs"
        path.mkdir()
        netns.mount("bpf", path, "bpf")
        self._undo.callback(netns.unmount, path)
        return path

    def _make_cgroup(self) -> Path:
        root = cgroups.mounted_root()
        if root is None:
            root = cgroups.mount_root(self.directory / "cgroup2")
            self._undo.callback(netns.unmount, root)
        path = root / f"pyproxy-datapath-{os.getpid()}-{self.directory.name}"
        path.mkdir()
        self._undo.callback(cgroups.remove, path)
        return path

    def make_namespace(self, name: str, undo: ExitStack) -> Path:
        """Make a namespace with the backends' addresses on lo; `undo` takes it away."""
        path = self.directory / name
        netns.create(path, {"net/ipv4/ping_group_range": "0 2147483647"})
        undo.callback(path.unlink)
        undo.callback(netns.unmount, path)
        lines = [line for n in BACKENDS for line in _addresses(n)]
        run_ip(path, "link set lo up", *lines)
        return path

    def _load(self, root: Path) -> dict[Family, Loaded]:
        features = probe()
        requests = [load.Request(root, family, features) for family in Family]
        found = {}
        for request, digest in zip(requests, load_all(requests, self._sizes), strict=True):
            sockets.attach(request.pins, digest, self.cgroup)
            datapath = KernelDatapath(request.pins)
            self._undo.callback(datapath.close)
            found[request.family] = Loaded(request, digest, datapath)
        return found

    def _start_backends(self) -> Child[None]:
        board = Board()
        child = Child(Where(self.namespace), lambda: answer(board))
        wait_for(lambda: board.progress, children.patience_s(), "the backends to listen")
        return child

    @contextmanager
    def paused_backends(self) -> Iterator[None]:
        """Keep the backends from running; what is sent to them waits."""
        os.kill(self._backends.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._backends.pid, signal.SIGCONT)

    def make_syncers(self) -> None:
        """Forget the syncers and begin with new ones, as a new agent does."""
        self.syncers = {f: Syncer(each.datapath, serves) for f, each in self.loaded.items()}

    def clear(self) -> None:
        """Take every service out of the kernel again."""
        for syncer in self.syncers.values():
            syncer.apply(dict.fromkeys(syncer.books.programmed))

    def apply(self, *plans: PortPlan) -> None:
        """Bring plans into the kernel."""
        for plan in plans:
            self.syncers[plan.family].apply({plan.name: plan})

    def remove(self, plan: PortPlan) -> None:
        """Take a service out of the kernel."""
        self.syncers[plan.family].apply({plan.name: None})

    def reclaim(self) -> None:
        """Free what was replaced and removed: slots and ids are handed out again."""
        for syncer in self.syncers.values():
            syncer.reclaim()

    def is_empty(self) -> bool:
        """Whether nothing of any service is left in the maps."""
        return not any(any(each.datapath.read()) for each in self.loaded.values())

    def counters(self, family: Family) -> dict[str, int]:
        """Return a family's counters."""
        return inspect.counters(self.loaded[family].pins)

    @contextmanager
    def counting(self, family: Family, **expected: int) -> Iterator[None]:
        """Assert by how much every counter grows in the block; unnamed ones must not."""
        before = self.counters(family)
        yield
        grown = {name: n - before[name] for name, n in self.counters(family).items()}
        assert {name: n for name, n in grown.items() if n} == expected

    def remembered(self) -> int:
        """Return how many connected sockets the programs remember."""
        pins = self.loaded[Family.IPV4].pins
        with links.opened(pins.shared / "connected") as fd:
            shape = libbpf.map_info(fd)
            return libbpf.map_count(fd, shape.key_size, shape.value_size)

    def make_socket(self, domain: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket of a process in the cgroup and the namespace."""
        return self._broker.socket(domain, kind, protocol)

    def socket(self, flavour: Flavour, protocol: Protocol, number: int = 0) -> socket.socket:
        """Return a client's socket; `number` is a protocol other than TCP and UDP."""
        return open_socket(flavour, protocol, self.make_socket, number)

    def inside(self, work: Callable[[], T]) -> T:
        """Run a function in a process in the cgroup and the namespace; return its result."""
        return children.run(self.where, work)

    def running(self, work: children.Work[T]) -> AbstractContextManager[tuple[Board, Child[T]]]:
        """Run a function there beside the block, which stops it and fetches its result."""
        return children.running(self.where, work)


def load_all(requests: list[load.Request], sizes: Sizes | None = None) -> list[str]:
    """Load families, with maps of these sizes; return the digests of their programs."""
    if sizes is None:
        load.finish(load.start(requests))
        return [request.build().digest for request in requests]

    def work() -> list[str]:
        # in this forked child alone, which plays the loader
        vars(load)["Sizes"] = lambda: sizes
        for request in requests:
            load.load(request)
        return [request.build().digest for request in requests]

    return children.run(Where(), work)


def _addresses(number: int) -> tuple[str, str]:
    return (
        f"addr add 10.1.0.{number}/32 dev lo",
        f"addr add fd00:1::{number:x}/128 dev lo nodad",
    )


def run_ip(namespace: Path, *lines: str) -> None:
    """Change links, addresses and routes of a namespace, each line a command of ip(8)."""
    command = ["nsenter", f"--net={namespace}", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)
