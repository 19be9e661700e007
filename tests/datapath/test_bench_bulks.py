# SPDX-License-Identifier: Apache-2.0
"""Bulks of the load tools: as many bytes as throughput is counted by, one way and whole."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.build import build_tools, cache_dir
from tests.bench.load import Endpoint, Tools, client, serving
from tests.bench.peers import BULK_BYTES
from tests.datapath.test_bench_tools import ANY_CPU, LOOPBACK, spawn

BULK = BULK_BYTES["tcp"]


@pytest.fixture(scope="module")
def tools() -> Tools:
    """The tools, compiled once for this state of their source."""
    return build_tools(cache_dir(os.environ))


@pytest.fixture
def port() -> int:
    """A port that is free for TCP over both families."""
    with closing(socket.create_server(("::", 0), family=socket.AF_INET6)) as taken:
        number: int = taken.getsockname()[1]
    return number


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["tcp-take", "udp-take", "tcp-give", "udp-give"])
def test_bulks_go_one_way(tools: Tools, port: int, mode: str, family: int) -> None:
    """So many bytes as throughput is counted by are carried for each operation."""
    at, protocol = Endpoint(LOOPBACK[family], port), mode[:3]
    with (
        serving(spawn, tools, protocol, at, name="me", cpu=ANY_CPU),
        client(spawn, tools, mode, at, ANY_CPU) as caller,
    ):
        before = _loopback_bytes()
        window = caller.window(30)
        carried = _loopback_bytes() - before
    assert window.operations >= 2
    assert carried >= window.operations * BULK_BYTES[protocol]


def _loopback_bytes() -> int:
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


@pytest.mark.parametrize(("word", "sent", "back"), [("take", BULK, 64), ("give", 64, BULK)])
def test_a_server_counts_a_bulk_to_its_end(
    tools: Tools, port: int, word: str, sent: int, back: int
) -> None:
    """A stream's bulk is answered when its last byte is there, and given whole."""
    at = Endpoint(LOOPBACK[4], port)
    with (
        serving(spawn, tools, "tcp", at, name="me", cpu=ANY_CPU),
        socket.create_connection(at, timeout=5) as sock,
    ):
        sock.sendall(word.encode().ljust(64, b"\0"))
        if word == "take":
            sock.sendall(bytes(sent - 1))
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(5)
            sock.sendall(b"\0")
        got = 0
        while got < back:
            got += len(sock.recv(65536))
        assert got == back
