# SPDX-License-Identifier: Apache-2.0
"""What was compiled once is loaded again without a compiler, if nobody has touched it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf, load
from pyproxy.kernel.features import probe
from pyproxy.kernel.kept import SUFFIX
from pyproxy.kernel.links import opened
from pyproxy.kernel.pins import remove_tree
from pyproxy.kernel.programs import OTHER_FAMILY_ARRAY, STAGE_ARRAY, programs
from pyproxy.model import Family
from tests.datapath.node import Node

COMPILING = "compiling for IPv6"


Place = Callable[[str], load.Request]


@pytest.fixture
def place(node: Node, tmp_path: Path) -> Iterator[Place]:
    """Requests of nodes with nothing in their kernels, which keep programs in one directory."""
    root = node.bpffs / "kept"

    def request(name: str) -> load.Request:
        return load.Request(root / name, Family.IPV6, probe(), cache_dir=tmp_path / "cache")

    yield request
    remove_tree(root)


@pytest.fixture
def first(place: Place) -> load.Request:
    """The node that compiled."""
    request = place("first")
    assert load.finish(load.start([request])) == COMPILING
    return request


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders that find no bcc."""
    folder = tmp_path / "in the way"
    folder.mkdir()
    (folder / "bcc.py").write_text("raise ImportError('no bcc here')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def in_kernel(request: load.Request) -> dict[str, object]:
    """Return what the kernel says of all that was loaded: tags of programs, shapes of maps."""
    directory = request.pins.programs(request.build().digest)
    found: dict[str, object] = {}
    for program in programs(request.family):
        with opened(directory / program.name) as fd:
            found[program.name] = libbpf.program_info(fd)._replace(id=0)
    arrays = {name: directory / name for name in (STAGE_ARRAY, OTHER_FAMILY_ARRAY)}
    for name, pin in (request.pinned_maps() | arrays).items():
        with opened(pin) as fd:
            found[f"map {name}"] = libbpf.map_info(fd)._replace(id=0, btf_id=0)
    return found


def compiled(request: load.Request) -> list[Path]:
    """Return the files with compiled programs."""
    assert request.cache_dir
    return list(request.cache_dir.glob(f"*{SUFFIX}"))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_nothing_is_made(place: Place) -> None:
    """So that the tests below mean something."""
    with pytest.raises(KernelError, match="python3-bpfcc"):
        load.finish(load.start([place("bare")]))


def test_the_next_boot_needs_no_compiler(
    first: load.Request, place: Place, request: pytest.FixtureRequest
) -> None:
    """The same programs and maps are in the kernel, by the pins alone."""
    request.getfixturevalue("no_compiler")
    second = place("second")
    assert load.finish(load.start([second])) == ""
    assert load.is_loaded(second)
    assert in_kernel(second) == in_kernel(first)


def test_types_of_maps_come_along(first: load.Request, place: Place) -> None:
    """`pyproxy status` reads maps by the types that the kernel has of them."""
    second = place("second")
    load.finish(load.start([second]))
    for name, pin in first.pinned_maps().items():
        shapes = []
        for each in (pin, second.pinned_maps()[name]):
            with opened(each) as fd:
                info = libbpf.map_info(fd)
                shapes.append((info.btf_key_type, info.btf_value_type, libbpf.btf(info.btf_id)))
        assert shapes[0] == shapes[1], name


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "another's"])
def test_what_cannot_be_trusted_is_compiled_anew(
    first: load.Request, place: Place, harm: str
) -> None:
    """A file cut short by a crash, changed, or open to others' hands; then it is kept anew."""
    (file,) = compiled(first)
    whole = file.read_bytes()
    if harm == "another's":
        file.chmod(0o620)
    else:
        at = len(whole) // 2
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        file.write_bytes({"cut": whole[:at], "changed": changed, "empty": b""}[harm])
    assert load.finish(load.start([place("second")])) == COMPILING
    assert load.finish(load.start([place("third")])) == ""
    assert compiled(first) == [file]


def test_a_directory_that_cannot_be_written_costs_a_word(place: Place, tmp_path: Path) -> None:
    """The programs are loaded all the same."""
    (tmp_path / "cache").write_text("no directory")
    request = place("first")
    said = load.finish(load.start([request]))
    assert f"compiled programs are not kept: {tmp_path / 'cache'}" in said
    assert load.is_loaded(request)
