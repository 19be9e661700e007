# SPDX-License-Identifier: Apache-2.0
"""Which families a node has."""

from __future__ import annotations

from pathlib import Path

from pyproxy.agent.kernel import families
from pyproxy.model import Family


def test_a_kernel_without_ipv6_has_ipv4_alone(tmp_path: Path) -> None:
    """It has no /proc/net/if_inet6; an empty one says that no device has an address (A3.3)."""
    table = tmp_path / "if_inet6"
    assert families(table) == (Family.IPV4,)
    table.touch()
    assert families(table) == (Family.IPV4, Family.IPV6)
