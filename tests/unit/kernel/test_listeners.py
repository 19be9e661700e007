# SPDX-License-Identifier: Apache-2.0
"""Which ports somebody listens on (proc_net_tcp.rst of the kernel's documentation)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.kernel import listeners
from pyproxy.model import Family, Protocol

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000\n"


def test_listeners_of_both_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are none, nor are connected UDP sockets; a kernel without IPv6 has no file."""
    monkeypatch.setattr(listeners, "PROC_NET", tmp_path)
    any6, one6, any4 = 32 * "0", 24 * "0" + "01000000", bytes(4)
    mapped = 16 * "0" + "FFFF0000" + "0200000A"
    (tmp_path / "tcp").write_text(
        HEAD
        + f"   0: 0100007F:7918 00000000:0000 0A {REST}"
        + f"   1: 0100007F:7919 0100007F:0050 01 {REST}"
    )
    (tmp_path / "tcp6").write_text(
        HEAD
        + "".join(
            f"   {n}: {address}:0050 {any6}:0000 0A {REST}"
            for n, address in enumerate((any6, one6, mapped))
        )
    )
    (tmp_path / "udp").write_text(
        HEAD
        + f"   0: 00000000:0035 00000000:0000 07 {REST}"
        + f"   1: 0100007F:0036 0100007F:0035 01 {REST}"
    )
    local, ten = bytes((127, 0, 0, 1)), bytes((10, 0, 0, 2))
    of = listeners.listening
    assert of(Protocol.TCP, Family.IPV4) == {(local, 31_000), (any4, 80), (ten, 80)}
    six = of(Protocol.TCP, Family.IPV6)
    assert {(bytes(16), 80), (bytes(15) + b"\x01", 80)} < six
    assert len(six) == 3
    assert of(Protocol.UDP, Family.IPV4) == {(any4, 53)}
    assert of(Protocol.UDP, Family.IPV6) == set()
