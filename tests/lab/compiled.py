# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that tests share: a node takes 1 s to load what one has compiled, else 8."""

from __future__ import annotations

import os
from pathlib import Path

PROGRAMS_DIR = "PYPROXY_TEST_PROGRAMS"
"""The variable that says where they are kept; scripts/test sets it for one run of all layers."""


def programs_dir() -> Path | None:
    """Return where compiled programs are kept, None if nobody has said it."""
    named = os.environ.get(PROGRAMS_DIR)
    return Path(named) if named else None
