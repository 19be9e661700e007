# SPDX-License-Identifier: Apache-2.0
"""Options and parametrisation that all layers of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.load import KUBE_PROXY, FlowFile, FlowFileError, read_flow_file

FLOW_FILES = pytest.StashKey[tuple[FlowFile, ...]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --flows."""
    parser.addoption(
        "--flows",
        action="append",
        default=[],
        metavar="FILE",
        help="another file of packet cases, of the form of tests/flows/kube-proxy.yaml; repeatable",
    )


def flow_files(config: pytest.Config) -> tuple[FlowFile, ...]:
    """Return kube-proxy's own cases and those of every --flows FILE, each read once."""
    if FLOW_FILES not in config.stash:
        paths = [KUBE_PROXY, *map(Path, config.getoption("--flows"))]
        try:
            config.stash[FLOW_FILES] = tuple(read_flow_file(path) for path in paths)
        except FlowFileError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[FLOW_FILES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `flow_case` for every case, and one with `flow_file` for every file."""
    if "flow_case" in metafunc.fixturenames:
        cases = [case for file in flow_files(metafunc.config) for case in file.cases]
        metafunc.parametrize("flow_case", cases, ids=[case.id for case in cases])
    if "flow_file" in metafunc.fixturenames:
        files = flow_files(metafunc.config)
        metafunc.parametrize("flow_file", files, ids=[file.path.name for file in files])
