# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets of this network namespace, and how they are ended: sock_diag(7)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from pyproxy.kernel.netlink import (
    BUFFER_BYTES,
    HEADER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    messages,
)
from pyproxy.model import Address

NETLINK_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
NLM_F_ACK = 0x4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21  # include/uapi/linux/sock_diag.h
TCP_ESTABLISHED = 1  # include/net/tcp_states.h; connected UDP sockets are in it as well

_REQUEST = struct.Struct("=BBxxI")  # struct inet_diag_req_v2, up to its id
_MESSAGE = struct.Struct("=B3x")  # struct inet_diag_msg, up to its id
_ID = struct.Struct("=2s2s16s16sI8s")  # struct inet_diag_sockid
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2

# its owner was faster, or another socket has its addresses now
_GONE = {errno.ENOENT, errno.ESTALE}


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
        for body in _ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request + bytes(_ID.size)):
            yield _read(body)


def destroy(found: DatagramSocket) -> bool:
    """End a socket: its owner gets ECONNABORTED. Return False if it is gone; raises OSError."""
    request = _REQUEST.pack(found.domain, socket.IPPROTO_UDP, 1 << TCP_ESTABLISHED)
    try:
        list(_ask(SOCK_DESTROY, NLM_F_ACK, request + found.id))
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    return True


def _read(body: bytes) -> DatagramSocket:
    (domain,) = _MESSAGE.unpack_from(body)
    raw = body[_MESSAGE.size : _MESSAGE.size + _ID.size]
    _, port, _, address, _, cookie = _ID.unpack(raw)
    if domain == socket.AF_INET:
        address = address[:4]
    elif address.startswith(_MAPPED):
        address = address[12:]
    return DatagramSocket(domain, (address, int.from_bytes(port, "big")), cookie, raw)


def _ask(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    request = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(request)
        while True:
            for answer, found in messages(netlink.recv(BUFFER_BYTES)):
                if answer == NLMSG_ERROR:
                    error = -int.from_bytes(found[:4], sys.byteorder, signed=True)
                    if error:
                        raise OSError(error, os.strerror(error))
                if answer in {NLMSG_DONE, NLMSG_ERROR}:
                    return
                yield found
