# SPDX-License-Identifier: Apache-2.0
"""A node without an agent: programs loaded and attached, maps written by the syncers."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pyproxy.agent.sync import serves
from pyproxy.kernel import inspect, libbpf, links, load, sockets
from pyproxy.kernel.datapath import KernelDatapath
from pyproxy.kernel.devices import Device
from pyproxy.kernel.entries import Entries
from pyproxy.kernel.features import probe
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.kernel.pins import CONNECTED, Pins
from pyproxy.kernel.source import Sizes
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from pyproxy.sync.syncer import Syncer
from pyproxy.tables import ConnectionTimeouts, PortPlan, PortRange, SocketTranslation
from tests.datapath import children
from tests.datapath.answering import answer
from tests.datapath.asking import open_socket
from tests.datapath.children import Board, Broker, Child, Where
from tests.datapath.flavours import BACKENDS, Flavour
from tests.lab import cgroups, netns
from tests.lab.compiled import programs_dir
from tests.lab.waiting import wait_for

T = TypeVar("T")

# a handful of entries in each map that a test fills
SMALL = Sizes(
    max_frontends=4,
    max_services=8,
    max_slots=16,
    max_members=6,
    max_nodes=4,
    max_connected=2,
    max_connected_udp=2,
    max_udp=64,
    max_connections=64,
)


class Loaded(NamedTuple):
    """One family in the kernel."""

    request: load.Request
    digest: str
    datapath: KernelDatapath
    path: PacketPath

    @property
    def pins(self) -> Pins:
        """Where it is pinned."""
        return self.request.pins

    @property
    def programs(self) -> Path:
        """Where its programs are pinned."""
        return self.pins.programs(self.digest)

    @property
    def connections(self) -> Path:
        """Where its connection table is pinned."""
        return self.request.connections


def requests_for(root: Path, sizes: Sizes | None) -> list[load.Request]:
    """Return what loads both families below a bpffs root; what others have compiled is used."""
    features, kept = probe(), programs_dir()
    return [load.Request(root, family, features, sizes, cache_dir=kept) for family in Family]


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
        self.configure()
        self.entries(self.directory).join()
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
        # nobody else can have an address here (RFC 4862 5.4): to look for that takes 2 s
        sysctls = {"net/ipv6/conf/default/accept_dad": "0"}
        netns.create(path, {"net/ipv4/ping_group_range": "0 2147483647"} | sysctls)
        undo.callback(path.unlink)
        undo.callback(netns.unmount, path)
        lines = [line for n in BACKENDS for line in _addresses(n)]
        run_ip(path, "link set lo up", *lines)
        return path

    def _load(self, root: Path) -> dict[Family, Loaded]:
        requests = requests_for(root, self._sizes)
        load.finish(load.start(requests))
        found = {}
        for request in requests:
            digest = request.build().digest
            sockets.attach(request.pins, digest, self.cgroup)
            datapath, path = KernelDatapath(request.pins), PacketPath(request.pins)
            self._undo.callback(datapath.close)
            self._undo.callback(path.close)
            found[request.family] = Loaded(request, digest, datapath, path)
        return found

    def configure(
        self,
        *,
        translation: SocketTranslation = SocketTranslation.ALL,
        timeouts: ConnectionTimeouts | None = None,
        ports: PortRange | None = None,
        options: Options | None = None,
    ) -> None:
        """Write the packet path's settings: an agent's defaults but for what is given.

        They are the node's from then on; call it again without arguments to undo it.
        """

        def work() -> None:
            kept = timeouts or ConnectionTimeouts()
            for each in self.loaded.values():
                each.path.configure(options or Options("here"), translation, kept, ports)

        netns.inside(self.namespace, work)

    def entries(self, run_dir: Path, *, tcx: bool | None = None) -> Entries:
        """Return the packet path to be attached to devices, as the kernel can unless `tcx` says.

        What is done with it is done in the namespace of the thread: attach() is for one's own.
        """
        programs = {family: each.programs for family, each in self.loaded.items()}
        is_tcx = libbpf.tcx_exists() if tcx is None else tcx
        return Entries(self.bpffs / "pyproxy", programs, run_dir, tcx=is_tcx)

    def attach(self, devices: Sequence[Device], namespace: Path | None = None) -> dict[Device, str]:
        """Attach the packet path to devices of a namespace (the node's own); return failures.

        Links are pinned by ifindex: attach to devices of one namespace at a time.
        """
        entries = self.entries(self.directory)
        where = Where(namespace or self.namespace)
        return children.run(where, lambda: entries.attach(devices).failures)

    def detach(self, devices: Iterable[Device] = (), namespace: Path | None = None) -> None:
        """Take the packet path off everything: links of all devices, filters of these."""
        entries = self.entries(self.directory)
        children.run(Where(namespace or self.namespace), lambda: entries.detach(devices))

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
        """Take every service and connection out of the kernel again."""
        for syncer in self.syncers.values():
            syncer.apply(dict.fromkeys(syncer.books.programmed))
        if self.connections_used():
            self.forget_connections()

    def connections_used(self) -> int:
        """Return how many entries lead to connections of the packet path, in both families."""
        return sum(_count(each.connections / "nat") for each in self.loaded.values())

    def forget_connections(self) -> None:
        """Empty the connection tables of the packet path."""
        for each in self.loaded.values():
            _empty(each)

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
        found = {name: n for name, n in grown.items() if n}
        assert found == expected, f"counted {found}, expected {expected}"

    def remembered(self) -> int:
        """Return how many connected sockets the programs remember."""
        shared = self.loaded[Family.IPV4].pins.shared
        return sum(_count(shared / name) for name in CONNECTED)

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


def _count(pin: Path) -> int:
    with links.opened(pin) as fd:
        shape = libbpf.map_info(fd)
        return libbpf.map_count(fd, shape.key_size, shape.value_size)


def _empty(loaded: Loaded) -> None:
    """Empty a family's connection table, and clear the marks of its ends."""
    with links.opened(loaded.connections / "nat") as fd:
        shape = libbpf.map_info(fd)
        for key, _ in libbpf.map_dump(fd, shape.key_size, shape.value_size):
            libbpf.map_delete(fd, key)
    with _mapped(loaded.connections / "connections") as (_, memory):
        memory[:] = bytes(len(memory))
    with _mapped(loaded.pins.maps / "marks") as (array, memory):
        busy = array.layout["busy"]
        for offset in range(busy.offset, busy.offset + busy.size):
            memory[offset :: array.stride] = bytes(array.max)


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[ArrayMap, mmap.mmap]]:
    """Give a pinned array, and all of its elements as memory."""
    array = ArrayMap(str(path), write=True)
    try:
        length = -(-array.stride * array.max // mmap.PAGESIZE) * mmap.PAGESIZE
        with mmap.mmap(array.fd, length) as memory:
            yield array, memory
    finally:
        array.close()


def _addresses(number: int) -> tuple[str, str]:
    return (
        f"addr add 10.1.0.{number}/32 dev lo",
        f"addr add fd00:1::{number:x}/128 dev lo nodad",
    )


def run_ip(namespace: Path, *lines: str) -> None:
    """Change links, addresses and routes of a namespace, each line a command of ip(8)."""
    command = ["nsenter", f"--net={namespace}", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)
