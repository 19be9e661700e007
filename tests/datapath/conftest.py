# SPDX-License-Identifier: Apache-2.0
"""One node for the whole run; every test begins and ends with empty maps."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath.flavours import PROTOCOLS, Flavour
from tests.datapath.node import Node


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update-golden."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/datapath/golden anew (with a new LAYOUT_VERSION only)",
    )


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
