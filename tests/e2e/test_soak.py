# SPDX-License-Identifier: Apache-2.0
"""A minute of scripts/soak: all paths, while endpoints come and go ten times a second."""

from __future__ import annotations

import pytest

from tests.soak.soak import Wanted, soak
from tests.soak.verdict import complaints

SECONDS = 60.0
# machines that are busy with something else take longer for a minute's traffic
PATIENCE_S = 90.0


@pytest.mark.timeout(300)
def test_a_minute_of_soak() -> None:
    """Nothing fails that should not, tables and memory stay as they are, all traffic happens.

    Both ways of translation take part at once (see tests/soak), so it runs once.
    """
    result = soak(Wanted(SECONDS, patience=PATIENCE_S), print)
    assert complaints(result) == []
