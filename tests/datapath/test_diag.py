# SPDX-License-Identifier: Apache-2.0
"""Sockets of the node are listed and ended by what sock_diag(7) says of them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from pyproxy.kernel import diag
from tests.datapath.node import Node
from tests.lab import netns

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.mark.kernel
def test_this_kernel_ends_sockets(node: Node) -> None:
    """As the kernels do that pyproxy is tested on; nothing is left of the probe."""

    def probed() -> tuple[bool, list[diag.DatagramSocket]]:
        return diag.can_destroy(), list(diag.connected_datagram_sockets())

    assert netns.inside(node.namespace, probed) == (True, [])


@pytest.mark.parametrize("domain", LOOPBACK, ids=["IPv4", "IPv6"])
def test_one_socket_is_ended_and_no_other(node: Node, domain: int) -> None:
    """Its owner gets ECONNABORTED; a socket to the same peer goes on."""

    def ended() -> list[int]:
        with (
            socket.socket(domain, socket.SOCK_DGRAM) as server,
            socket.socket(domain, socket.SOCK_DGRAM) as one,
            socket.socket(domain, socket.SOCK_DGRAM) as other,
        ):
            server.bind((LOOPBACK[socket.AddressFamily(domain)], 0))
            for each in (one, other):
                each.connect(server.getsockname())
            cookie = one.getsockopt(socket.SOL_SOCKET, diag.SO_COOKIE, 8)
            (found,) = (e for e in diag.connected_datagram_sockets() if e.number == cookie)
            assert found.peer == (
                socket.inet_pton(domain, server.getsockname()[0]), server.getsockname()[1]
            )  # fmt: skip
            assert diag.destroy(found)
            assert not diag.destroy(found)
            return [each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in (one, other)]

    assert netns.inside(node.namespace, ended) == [errno.ECONNABORTED, 0]


def refusing(number: int) -> Callable[..., object]:
    """Return what a kernel does that has not what is asked for."""

    def refuse(*_: object) -> object:
        raise OSError(number, "refused")

    return refuse


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EOPNOTSUPP])
@pytest.mark.parametrize("what", ["connected_datagram_sockets", "destroy"])
def test_a_kernel_that_cannot_is_known(
    node: Node, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY, one by one."""
    monkeypatch.setattr(diag, what, refusing(number))
    assert not netns.inside(node.namespace, diag.can_destroy)


def test_what_else_goes_wrong_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is no absence."""
    monkeypatch.setattr(diag, "destroy", refusing(errno.EPERM))
    with pytest.raises(PermissionError):
        netns.inside(node.namespace, diag.can_destroy)
