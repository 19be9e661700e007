# SPDX-License-Identifier: Apache-2.0
"""One node for the whole run; every test begins and ends with empty maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf
from pyproxy.model import Family, Protocol
from tests.datapath.balancing import ByGroup, longest_first
from tests.datapath.covering import Covering, covering
from tests.datapath.flavours import PROTOCOLS, Flavour
from tests.datapath.moving import FEW, Adoption, Tables, hooks_of, with_table
from tests.datapath.node import SMALL, Node
from tests.datapath.wire import Wire


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update-golden."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/datapath/golden anew (with a new LAYOUT_VERSION only)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let several processes begin with what takes longest."""
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup | None:
    """Let files whose tests share what is dear to make stay with one process."""
    config.option.loadscopereorder = False
    return ByGroup(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node of the whole run."""
    if os.geteuid() != 0:
        pytest.fail("the datapath tests load BPF programs: run them as root")
    with Node(tmp_path_factory.mktemp("node")) as node:
        yield node
        assert node.is_empty()


@pytest.fixture
def node(whole_run: Node) -> Iterator[Node]:
    """The node, with empty maps before and after."""
    try:
        yield whole_run
    finally:
        whole_run.clear()


@pytest.fixture(params=Flavour, ids=lambda flavour: flavour.value)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each way of naming an address."""
    return Flavour(request.param)


@pytest.fixture(params=Family, ids=lambda family: family.label)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family."""
    return Family(request.param)


@pytest.fixture(params=PROTOCOLS, ids=lambda protocol: protocol.name)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    """Each protocol that services have."""
    return Protocol(request.param)


@pytest.fixture
def wire(node: Node) -> Iterator[Wire]:
    """A veth pair between two namespaces."""
    with ExitStack() as undo:
        yield Wire(node, undo)


@pytest.fixture(params=["tcx", "clsact"])
def tcx(request: pytest.FixtureRequest) -> bool:
    """Both ways of attaching; where the kernel has no tcx, clsact is the only one."""
    return request.param == "tcx" and libbpf.tcx_exists()


@pytest.fixture
def covered(node: Node, wire: Wire, tmp_path: Path, tcx: bool) -> Iterator[Covering]:
    """The packet path on the near device, attached in both ways."""
    with covering(node, wire, tmp_path, tcx=tcx) as made:
        yield made


@pytest.fixture(scope="session")
def small_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose maps hold a handful of entries."""
    with Node(tmp_path_factory.mktemp("small"), SMALL) as node:
        yield node
        assert node.is_empty()


@pytest.fixture
def small(small_node: Node) -> Iterator[Node]:
    """The small node, with empty maps before and after."""
    yield small_node
    small_node.clear()
    small_node.reclaim()


@pytest.fixture(scope="session")
def few(whole_run: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The same node as its programs with a small connection table see it."""
    with with_table(whole_run, tmp_path_factory.mktemp("few"), FEW) as found:
        yield found


@pytest.fixture(scope="session")
def adoptions(whole_run: Node, few: Node) -> Iterator[dict[Node, Adoption]]:
    """What moves connections to the node with either table from the other one."""
    made = {whole_run: Adoption(whole_run, few), few: Adoption(few, whole_run)}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture(params=["larger", "smaller"])
def nodes(request: pytest.FixtureRequest, node: Node, few: Node) -> tuple[Node, Node]:
    """The node with the old table and with the new one."""
    return (few, node) if request.param == "larger" else (node, few)


@pytest.fixture
def adoption(nodes: tuple[Node, Node], adoptions: dict[Node, Adoption]) -> Iterator[Adoption]:
    """What moves connections from the old table to the new one."""
    with adoptions[nodes[1]].lent() as found:
        yield found


@pytest.fixture
def tables(
    nodes: tuple[Node, Node], adoption: Adoption, family: Family, tmp_path: Path
) -> Iterator[Tables]:
    """Both tables, empty, a service for each protocol, and the move."""
    with hooks_of(nodes, family, tmp_path) as (old, new):
        yield Tables(old, new, adoption.move(family))
