# SPDX-License-Identifier: Apache-2.0
"""Commands set up logging: each test leaves it as it was."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _logging_as_before(logging_as_before: None) -> None:
    pass
