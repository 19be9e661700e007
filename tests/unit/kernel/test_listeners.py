# SPDX-License-Identifier: Apache-2.0
"""Which ports somebody listens on (proc_net_tcp.rst of the kernel's documentation)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.kernel import listeners
from pyproxy.model import Protocol

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000\n"


def test_listeners_of_both_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are none, nor are connected UDP sockets; a kernel without IPv6 has no file."""
    monkeypatch.setattr(listeners, "PROC_NET", tmp_path)
    any6 = 32 * "0"
    (tmp_path / "tcp").write_text(
        HEAD
        + f"   0: 0100007F:7918 00000000:0000 0A {REST}"
        + f"   1: 0100007F:7919 0100007F:0050 01 {REST}"
    )
    (tmp_path / "tcp6").write_text(HEAD + f"   0: {any6}:0050 {any6}:0000 0A {REST}")
    (tmp_path / "udp").write_text(
        HEAD
        + f"   0: 00000000:0035 00000000:0000 07 {REST}"
        + f"   1: 0100007F:0036 0100007F:0035 01 {REST}"
    )
    assert listeners.listening(Protocol.TCP) == {31_000, 80}
    assert listeners.listening(Protocol.UDP) == {53}
