# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of pyproxy.kube."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kube.following import Followed


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    """A source that follows an empty directory."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    one = Followed(directory)
    one.start()
    yield one
    one.source.stop()
