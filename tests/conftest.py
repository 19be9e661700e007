# SPDX-License-Identifier: Apache-2.0
"""Options and parametrisation that all layers of tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.flows.load import CORNERS, KUBE_PROXY, FlowFile, FlowFileError, read_flow_file
from tests.lab.compiled import PROGRAMS_DIR, programs_dir

_MADE = pytest.StashKey[Path]()
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


def pytest_configure(config: pytest.Config) -> None:
    """Let all tests of a run share what they compile; refuse a --flows FILE that is none."""
    if config.getoption("--flows"):
        flow_files(config)
    if programs_dir() is None:
        config.stash[_MADE] = Path(tempfile.mkdtemp(prefix="pyproxy-programs-"))
        os.environ[PROGRAMS_DIR] = str(config.stash[_MADE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forget what was compiled, unless it is somebody else's."""
    if _MADE in config.stash:
        shutil.rmtree(config.stash[_MADE])


def flow_files(config: pytest.Config) -> tuple[FlowFile, ...]:
    """Return kube-proxy's own cases, more of its rules, and those of every --flows FILE.

    A file that is named twice, in whatever way, is read once.
    """
    if FLOW_FILES not in config.stash:
        paths = dict.fromkeys(
            path.resolve()
            for path in (KUBE_PROXY, CORNERS, *map(Path, config.getoption("--flows")))
        )
        try:
            config.stash[FLOW_FILES] = tuple(read_flow_file(path) for path in paths)
        except FlowFileError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[FLOW_FILES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `flow_case` for every case, and one with `flow_file` for every file."""
    if "flow_case" in metafunc.fixturenames:
        found = [(file, case) for file in flow_files(metafunc.config) for case in file.cases]
        own = (KUBE_PROXY.name, CORNERS.name)
        ids = [c.id if f.path.name in own else f"{f.path.stem}-{c.id}" for f, c in found]
        metafunc.parametrize("flow_case", [case for _, case in found], ids=ids)
    if "flow_file" in metafunc.fixturenames:
        files = flow_files(metafunc.config)
        metafunc.parametrize("flow_file", files, ids=[file.path.name for file in files])
