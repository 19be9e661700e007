# SPDX-License-Identifier: Apache-2.0
"""How the processes of one run share the machine (`pytest -n 2`).

Tests of a file that use one --socket-translation stay together and in order (`--dist loadgroup`),
so that each process makes a cluster for each once. Nothing runs beside a test that is marked
`alone`: it measures.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.compiled import programs_dir


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "alone: measures, so that nothing may run beside it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a file's tests run in one process, apart for each --socket-translation."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        group = f"{item.path.name} {params.get('translation', '')}"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for those that measure; what measures waits for all others."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with _locked(fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH):
        return (yield)


@contextmanager
def _locked(how: int) -> Iterator[None]:
    """Hold the lock of all processes, which is a directory that each of them knows."""
    place = programs_dir()
    assert place, "tests/conftest.py says where it is"
    place.mkdir(parents=True, exist_ok=True)
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)
