# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets of this network namespace, and how they are ended: sock_diag(7)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyproxy.kernel import absent
from pyproxy.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, ask
from pyproxy.model import V4_MAPPED, Address

NETLINK_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21  # include/uapi/linux/sock_diag.h
SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
TCP_ESTABLISHED = 1  # include/net/tcp_states.h; connected UDP sockets are in it as well

_REQUEST = struct.Struct("=BBxxI")  # struct inet_diag_req_v2, up to its id
_MESSAGE = struct.Struct("=B3x")  # struct inet_diag_msg, up to its id
_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid

# its owner was faster, or another socket has its addresses now
_GONE = {errno.ENOENT, errno.ESTALE}
# without CONFIG_INET_UDP_DIAG, without CONFIG_INET_DIAG_DESTROY
_ABSENT = {errno.ENOENT, errno.EOPNOTSUPP}


class DatagramSocket(NamedTuple):
    """A connected UDP socket; `number` is its cookie, `id` what the kernel knows it by."""

    domain: int
    peer: tuple[Address, int]
    number: bytes
    id: bytes


def connected_datagram_sockets() -> Iterator[DatagramSocket]:
    """Give those of both families; the peer of an IPv4-mapped address is IPv4's. Raises OSError."""
    for domain in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(domain, socket.IPPROTO_UDP, 1 << TCP_ESTABLISHED)
        for body in ask(
            NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request + bytes(_ID.size)
        ):
            yield _read(body)


def destroy(found: DatagramSocket) -> bool:
    """End a socket: its owner gets ECONNABORTED. Return False if it is gone; raises OSError."""
    if absent.is_forced(absent.SOCK_DESTROY):
        raise OSError(errno.EOPNOTSUPP, f"{absent.VARIABLE} says that there is no SOCK_DESTROY")
    request = _REQUEST.pack(found.domain, socket.IPPROTO_UDP, 1 << TCP_ESTABLISHED)
    try:
        list(ask(NETLINK_SOCK_DIAG, SOCK_DESTROY, NLM_F_ACK, request + found.id))
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    return True


def can_destroy() -> bool:
    """Return whether this kernel ends UDP sockets, by having it end one of ours; raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.connect(ours.getsockname())
        cookie = ours.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        try:
            return any(
                destroy(each) for each in connected_datagram_sockets() if each.number == cookie
            )
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise


def _read(body: bytes) -> DatagramSocket:
    (domain,) = _MESSAGE.unpack_from(body)
    raw = body[_MESSAGE.size : _MESSAGE.size + _ID.size]
    _, port, _, address, _, cookie = _ID.unpack(raw)
    if domain == socket.AF_INET:
        address = address[:4]
    elif address.startswith(V4_MAPPED):
        address = address[12:]
    return DatagramSocket(domain, (address, int.from_bytes(port, "big")), cookie, raw)
