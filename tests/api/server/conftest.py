# SPDX-License-Identifier: Apache-2.0
"""A server for each test; most have no use for TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apiserver import ApiServer, Settings


@pytest.fixture
def plain() -> Iterator[ApiServer]:
    """A server that speaks HTTP."""
    with ApiServer(Settings(tls=False, future_list_wait=0.05)) as started:
        yield started


@pytest.fixture(scope="module")
def secured() -> Iterator[ApiServer]:
    """A server that speaks HTTPS, shared by the tests of a module."""
    with ApiServer() as started:
        yield started
