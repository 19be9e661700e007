# SPDX-License-Identifier: Apache-2.0
"""Compiling, loading and attaching: once, in one step, and with a clear word on failure."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyproxy
from pyproxy.agent.config import RunConfig
from pyproxy.agent.kernel import Loading, forget_former_programs
from pyproxy.errors import KernelError
from pyproxy.kernel import inspect, libbpf, links, load, sockets
from pyproxy.kernel.features import probe
from pyproxy.kernel.pins import Pins, make_directory, remove_tree
from pyproxy.kernel.programs import ADOPT, MOVE, OTHER_FAMILY_ARRAY, STAGE_ARRAY, programs
from pyproxy.kernel.source import bpf_directory
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from tests.datapath.asking import Answer, draw, errno_of
from tests.datapath.flavours import PORT, Flavour, SockAddr
from tests.datapath.moving import FEW
from tests.datapath.node import Loaded, Node
from tests.datapath.services import refusing, service
from tests.datapath.test_publishing import connecting
from tests.lab.compiled import programs_dir

SWAPS = 50
MAP_TYPE_HASH, MAP_TYPE_ARRAY = 1, 2  # enum bpf_map_type
# pinned beside the programs that are in them
ARRAYS = {STAGE_ARRAY, OTHER_FAMILY_ARRAY}


def ids_of_links(pins: Pins) -> dict[str, int]:
    """Return the ids of a family's links."""
    return {pin.name: found.id for pin in pins.links.iterdir() if (found := links.read(pin))}


def ids_of_running(pins: Pins) -> dict[str, int]:
    """Return the ids of the programs that a family's links run."""
    found = {pin.name: links.read(pin) for pin in pins.links.iterdir()}
    return {name: each.program_id for name, each in found.items() if each}


def ids_of_pinned(directory: Path) -> dict[str, int]:
    """Return the ids of the programs pinned in a directory."""
    found = {}
    for pin in directory.iterdir():
        if pin.name in ARRAYS:
            continue
        with links.opened(pin) as fd:
            found[pin.name] = libbpf.program_info(fd).id
    return found


def config_of(node: Node) -> RunConfig:
    """Return the configuration of an agent on this node, as far as loading reads it."""
    fields: dict[str, Any] = dict.fromkeys(RunConfig._fields)
    fields["bpffs_root"] = node.loaded[Family.IPV4].pins.root
    fields["cgroup_root"] = node.cgroup
    fields["run_dir"] = node.directory
    fields |= {"options": Options("here"), **RunConfig._field_defaults}
    return RunConfig(**fields)


@pytest.mark.kernel
def test_programs_that_are_pinned_are_not_loaded_again(node: Node) -> None:
    """An agent that starts with everything pinned runs the same programs by the same links."""
    before = {f: (ids_of_links(e.pins), ids_of_running(e.pins)) for f, e in node.loaded.items()}
    loading = Loading(config_of(node), probe())
    assert [e for e in node.loaded.values() if not load.is_loaded(e.request)] == []
    again = loading.finish()
    for family, each in again.items():
        pins = each.pins
        assert each.digest == node.loaded[family].digest
        assert (ids_of_links(pins), ids_of_running(pins)) == before[family]
        each.datapath.close()


@pytest.fixture(scope="module")
def other(whole_run: Node) -> Iterator[Loaded]:
    """IPv4's programs as a kernel without bpf_set_retval gets them, over the same maps."""
    loaded = whole_run.loaded[Family.IPV4]
    had = loaded.request.features
    features = had._replace(set_retval=not had.set_retval)
    kept = programs_dir()
    request = load.Request(loaded.pins.root, Family.IPV4, features, cache_dir=kept)
    assert not load.is_loaded(request)
    load.finish(load.start([request]))
    made = Loaded(request, request.build().digest, loaded.datapath, loaded.path)
    yield made
    remove_tree(made.programs)


def test_programs_are_swapped_under_traffic(node: Node, other: Loaded) -> None:
    """Changed programs take over by the same links, in one step: no connect() ever fails."""
    mine = node.loaded[Family.IPV4]
    pins, before = mine.pins, ids_of_links(mine.pins)
    node.apply(service(Family.IPV4, 1, [1, 2]))
    with node.running(connecting(Flavour.IPV4, Protocol.TCP)) as (board, child):
        for _ in range(SWAPS):
            for loaded in (other, mine):
                assert sockets.attach(pins, loaded.digest, node.cgroup) == len(before)
                assert ids_of_links(pins) == before
                running = ids_of_pinned(loaded.programs)
                assert ids_of_running(pins).items() <= running.items()
            while board.progress < SWAPS:
                pass
        board.stop()
        outcomes: Counter[Answer | str] = child.result()
    assert set(outcomes) == {Answer(1, PORT), Answer(2, PORT)}
    assert not set(ids_of_pinned(mine.programs).values()) & set(
        ids_of_pinned(other.programs).values()
    )


@pytest.mark.parametrize("flavour", [Flavour.IPV4, Flavour.MAPPED], ids=["ipv4", "mapped"])
def test_without_set_retval_connecting_is_refused_by_the_kernel(
    node: Node, other: Loaded, flavour: Flavour, protocol: Protocol
) -> None:
    """Kernels without bpf_set_retval are led to where nothing listens: no bare EPERM, at once.

    send() on an IPv6 socket that is connected to an IPv4-mapped address names its port anew
    (udpv6_sendmsg), and the kernel takes no port 0 there.
    """
    pins = other.pins
    is_named_anew = (flavour, protocol) == (Flavour.MAPPED, Protocol.UDP)
    node.apply(refusing(Family.IPV4, 1, protocol), service(Family.IPV4, 2, [3], protocol=protocol))
    sockets.attach(pins, other.digest, node.cgroup)
    try:
        with node.counting(Family.IPV4, refused=1), node.socket(flavour, protocol) as sock:
            sock.settimeout(2)
            error = errno_of(lambda: asked(sock, flavour.service(1)))
            assert error == ("EINVAL" if is_named_anew else "ECONNREFUSED")
        to = flavour.service(2)
        assert draw(flavour, protocol, to, node.make_socket) == Answer(3, PORT)
    finally:
        sockets.attach(pins, node.loaded[Family.IPV4].digest, node.cgroup)


def asked(sock: socket.socket, to: SockAddr) -> bytes:
    """Connect and wait for an answer: datagrams are refused by an ICMP error alone."""
    sock.connect(to)
    sock.send(b"?")
    return sock.recv(16)


def test_former_programs_are_forgotten(node: Node) -> None:
    """Programs of other digests, and what a killed loader left, are unpinned; ours stay."""
    mine = node.loaded[Family.IPV6]
    stray = mine.pins.base / "programs-fedcba9876543210"
    unfinished = mine.pins.base / "programs-0123456789abcdef-unfinished"
    for directory in (stray, unfinished):
        directory.mkdir()
        with links.opened(mine.programs / "ingress") as fd:
            libbpf.obj_pin(fd, str(directory / "ingress"))
    try:
        loaded = Loading(config_of(node), probe()).finish()
        forget_former_programs(loaded)
        for each in loaded.values():
            assert each.pins.program_directories() == [each.pins.programs(each.digest)]
            each.datapath.close()
    finally:
        remove_tree(stray)
        remove_tree(unfinished)


def test_status_is_not_misled_by_an_unfinished_load(node: Node) -> None:
    """A killed loader's half of a directory is not what should be running."""
    mine = node.loaded[Family.IPV6]
    unfinished = mine.pins.base / "programs-ffffffffffffffff-unfinished"
    unfinished.mkdir()
    try:
        found = list(inspect.programs(mine.pins, node.cgroup))
    finally:
        remove_tree(unfinished)
    assert found
    assert all(each.tag == each.expected != "" for each in found)


@pytest.fixture
def root(node: Node) -> Iterator[Path]:
    """A bpffs root with nothing in it."""
    path = node.bpffs / "other"
    yield path
    remove_tree(path)


def ipv6_request(root: Path, *, compiling: bool = False) -> load.Request:
    """Return a request for the smaller of the families: it has no mapped addresses."""
    kept = None if compiling else programs_dir()
    return load.Request(root, Family.IPV6, probe(), cache_dir=kept)


def pin_map(pin: Path, kind: int, key: int, value: int, entries: int) -> int:
    """Pin a new map; return its descriptor."""
    create = ctypes.CDLL("libbpf.so.1").bpf_map_create
    fd = int(create(kind, b"other", key, value, entries, None))
    assert fd > 0, os.strerror(-fd)
    libbpf.obj_pin(fd, str(pin))
    return fd


def new_map(pin: Path, key: int, value: int, entries: int) -> int:
    """Pin a hash map with one element in it; return its id."""
    fd = pin_map(pin, MAP_TYPE_HASH, key, value, entries)
    libbpf.map_update(fd, b"k" * key, b"v" * value)
    found = libbpf.map_info(fd).id
    os.close(fd)
    return found


@pytest.mark.parametrize(
    ("name", "key", "value", "entries"),
    [("members", 8, 4, 64), ("members", 24, 8, 524_288), ("members", 24, 4, 64)],
    ids=["key", "value", "entries"],
)
def test_a_pinned_map_of_another_shape_is_refused(
    root: Path, name: str, key: int, value: int, entries: int
) -> None:
    """A map of another layout is named, with the remedy; it keeps what it holds."""
    request = ipv6_request(root)
    request.pins.make(request.sizes.max_connections)
    pin = request.pins.maps / name
    number = new_map(pin, key, value, entries)
    with pytest.raises(KernelError, match=f"{pin} has another layout.*pyproxy cleanup"):
        load.finish(load.start([request]))
    with links.opened(pin) as fd:
        assert libbpf.map_info(fd).id == number
        assert libbpf.map_lookup(fd, b"k" * key, value) == b"v" * value
    assert request.pins.program_directories() == []
    assert not load.is_loaded(request)


def test_a_pin_that_is_no_map_of_ours_is_named(root: Path) -> None:
    """A file among the maps that this version does not know is named with the remedy."""
    request = ipv6_request(root)
    request.pins.make(request.sizes.max_connections)
    new_map(request.pins.maps / "stranger", 4, 4, 1)
    with pytest.raises(KernelError, match=r"stranger is no map of this version.*pyproxy cleanup"):
        load.finish(load.start([request]))


def test_what_a_killed_loader_left_is_replaced(root: Path, node: Node) -> None:
    """An unfinished directory of programs counts for nothing and is gone after the next load."""
    request = ipv6_request(root)
    request.pins.make(request.sizes.max_connections)
    final = request.pins.programs(request.build().digest)
    unfinished = final.with_name(f"{final.name}-unfinished")
    unfinished.mkdir()
    for name in ("ingress", "connect"):
        with links.opened(node.loaded[Family.IPV6].programs / name) as fd:
            libbpf.obj_pin(fd, str(unfinished / name))
    assert not load.is_loaded(request)
    load.finish(load.start([request]))
    assert load.is_loaded(request)
    assert request.pins.program_directories() == [final]
    assert {pin.name for pin in final.iterdir()} == ARRAYS | {p.name for p in programs(Family.IPV6)}


def test_programs_without_their_connection_table_are_loaded_anew(root: Path) -> None:
    """A table of another size took their connections, and they stayed for a device's sake."""
    request = ipv6_request(root)
    load.finish(load.start([request]))
    remove_tree(request.connections)
    assert not load.is_loaded(request)
    load.finish(load.start([request]))
    assert load.is_loaded(request)
    assert {pin.name for pin in request.connections.iterdir()} == set(load.FLOW_MAPS)


def test_programs_whose_pins_are_incomplete_are_loaded_anew(root: Path) -> None:
    """Whichever pin somebody has removed; a start that took them for whole could never succeed."""
    request = ipv6_request(root)
    load.finish(load.start([request]))
    everything = {pin for pin in root.rglob("*") if pin.is_file()}
    assert set(load.pinned(request)) == everything
    for pin in load.pinned(request):
        pin.rename(away := pin.with_name("away"))
        assert not load.is_loaded(request), pin
        away.rename(pin)
    for pins in (request.pins.maps, request.pins.shared):
        remove_tree(pins)
    load.finish(load.start([request]))
    assert load.is_loaded(request)


def test_a_loader_that_is_killed_is_reported(root: Path) -> None:
    """A loader that ends without a word is a failure that says so; the next one does it all."""
    request = ipv6_request(root)
    child = load.start([request])
    child.kill()
    with pytest.raises(KernelError, match="the loader ended with -9"):
        load.finish(child)
    assert not load.is_loaded(request)


def test_a_root_that_is_no_bpffs_is_reported(tmp_path: Path) -> None:
    """The kernel pins on a bpffs only: the failure reaches the caller as one error."""
    request = ipv6_request(tmp_path / "root")
    with pytest.raises(KernelError):
        load.finish(load.start([request]))
    assert not load.is_loaded(request)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package and the C sources, which the loader takes for its own."""
    package = Path(pyproxy.__file__).parent
    # what the loader does not import
    left_out = shutil.ignore_patterns("__pycache__", "agent", "cli", "kube", "plan", "serve")
    shutil.copytree(package, tmp_path / "pyproxy", ignore=left_out)
    shutil.copytree(bpf_directory(), tmp_path / "bpf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_compilers_words_reach_the_caller(copy: Path, root: Path) -> None:
    """A mistake in a header is reported by the header's name and line."""
    header = copy / "bpf" / "balance.h"
    lines = header.read_text().splitlines(keepends=True)
    lines.insert(20, "int mistake = ;\n")
    header.write_text("".join(lines))
    with pytest.raises(KernelError, match=r"balance\.h:21:(.|\n)*do not compile"):
        load.finish(load.start([ipv6_request(root, compiling=True)]))


def test_the_verifiers_words_reach_the_caller(copy: Path, root: Path) -> None:
    """A program that the kernel does not load is named, with what the verifier says."""
    source = copy / "bpf" / "sock.c"
    text = source.read_text()
    wrong = "int getpeername(struct bpf_sock_addr *ctx)\n{\n\treturn 7;\n}\n"
    source.write_text(text[: text.index("int getpeername")] + wrong)
    with pytest.raises(KernelError, match="does not load getpeername"):
        load.finish(load.start([ipv6_request(root, compiling=True)]))


def test_a_missing_bcc_is_named_with_its_package(copy: Path, root: Path) -> None:
    """Without bcc's Python module the remedy is its package."""
    (copy / "bcc.py").write_text("raise ImportError('no bcc here')\n")
    with pytest.raises(KernelError, match="python3-bpfcc"):
        load.finish(load.start([ipv6_request(root, compiling=True)]))


@pytest.mark.kernel
def test_what_brings_connections_along_is_loaded(node: Node, family: Family) -> None:
    """For a table of another size; that it does so, the tests of moves show."""
    loaded = node.loaded[family].request
    request = load.Request(
        loaded.pins.root, family, loaded.features, loaded.sizes, cache_dir=loaded.cache_dir
    )
    table = request.pins.connections(FEW)
    make_directory(table)
    try:
        for name in load.FLOW_MAPS:
            with links.opened(request.connections / name) as fd:
                shape = libbpf.map_info(fd)
            kind = MAP_TYPE_HASH if name == "nat" else MAP_TYPE_ARRAY
            os.close(pin_map(table / name, kind, shape.key_size, shape.value_size, FEW))
        request.formers = (table,)
        load.finish(load.start([request]))
        programs_of = request.pins.programs(request.build().digest)
        for program in (ADOPT, MOVE):
            pin = programs_of / load.of_former(program, 0)
            with links.opened(pin) as fd:
                assert libbpf.program_info(fd).id
            pin.unlink()
    finally:
        remove_tree(table)


def test_a_cgroup_that_went_and_came_back_is_attached_to(node: Node) -> None:
    """Links of a removed cgroup are made anew on the one that has its name now."""
    cgroup = node.cgroup / "again"
    mine = node.loaded[Family.IPV6]
    pins = Pins(node.bpffs / "again", Family.IPV6)
    pins.make(mine.request.sizes.max_connections)
    final = pins.programs(mine.digest)
    final.mkdir()
    for pin in mine.programs.iterdir():
        with links.opened(pin) as fd:
            libbpf.obj_pin(fd, str(final / pin.name))
    try:
        for _ in range(2):
            cgroup.mkdir()
            changed = sockets.attach(pins, mine.digest, cgroup)
            assert changed == len(ids_of_links(pins)) > 0
            assert sockets.attach(pins, mine.digest, cgroup) == 0
            cgroup.rmdir()
    finally:
        remove_tree(node.bpffs / "again")
