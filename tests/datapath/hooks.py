# SPDX-License-Identifier: Apache-2.0
"""The hooks of a device: packets go through the packet path's programs by BPF_PROG_TEST_RUN.

IPv6 packets enter by the IPv4 object's programs as well, as they do on every device.
"""

from __future__ import annotations

import enum
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from pyproxy.kernel import links
from pyproxy.kernel.addresses import DeviceFacts
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import SETTINGS, PacketPath
from pyproxy.kernel.reserved import MAP, WORD, WORDS
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.options import Options
from pyproxy.sync.api import FrontendValue
from pyproxy.tables import ConnectionTimeouts, FrontendKey, Kind, PortRange, SocketTranslation
from tests.datapath import packets, prog_run
from tests.datapath.ends import SOURCE_PORTS
from tests.datapath.flowtable import FlowTable
from tests.datapath.node import Node, run_ip
from tests.datapath.packets import ACK, ETH_P, ETHERNET_BYTES, PLAIN, SYN, TEXT, Chunk, End, ether
from tests.datapath.prog_run import TC_NEXT, Ran, Tuples
from tests.lab import netns

SIOCSIFHWADDR = 0x8924  # include/uapi/linux/sockios.h
ARPHRD_ETHER = 1
LOOPBACK = 1  # the ifindex of every namespace's own
TIMEOUTS = ConnectionTimeouts()
NO_SERVICE = 60_000  # an id that nothing has got in these tests
NOPS = b"\x01" * 4  # RFC 791 3.1: an option that does nothing


class Wire(enum.Enum):
    """How packets look on a device."""

    ETHERNET = "ethernet"
    OPTIONS = "options"  # frames, and IPv4 headers with options
    BARE = "bare"  # without a link-layer header


class Bare:
    """A device for BPF_PROG_TEST_RUN to take packets without a link-layer header for its own.

    The kernel takes the first 14 bytes for an Ethernet header, so the device gets what the
    packet begins with as its address (an option makes IPv4's first byte an even number, as
    unicast addresses have), and sources have the EtherType where the kernel looks for it.
    """

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        netns.create(namespace, {})
        run_ip(namespace, "link add bare type veth peer name other")
        self.ifindex = netns.inside(namespace, lambda: socket.if_nametoindex("bare"))

    def close(self) -> None:
        """Take the namespace away."""
        netns.unmount(self._namespace)
        self._namespace.unlink()

    def run(self, fd: int, packet: bytes, flags: int) -> Ran:
        """Run a program on a packet."""

        def work() -> Ran:
            request = struct.pack("16sH6s8x", b"bare", ARPHRD_ETHER, packet[:6])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                fcntl.ioctl(sock, SIOCSIFHWADDR, request)
            return prog_run.run(fd, packet, ifindex=self.ifindex, flags=flags)

        return netns.inside(self._namespace, work)


class Hooks:
    """Both hooks of a device of the node, and the connection table behind them."""

    def __init__(self, node: Node, family: Family, wire: Wire, directory: Path) -> None:
        self.node = node
        self.family = family
        self.wire = wire
        self._directory = directory
        self._undo = ExitStack()
        self._bare: Bare | None = None
        self._programs: dict[str, int] = {}
        self.flags = 0
        self._plain = PLAIN

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _open(self) -> None:
        loaded = self.node.loaded
        self._undo.callback(self.node.clear)
        self._undo.callback(self.keep_ports, ())
        self._undo.callback(self.node.configure)
        self.table = FlowTable(loaded[self.family])
        self._undo.callback(self.table.close)
        self._undo.callback(self.table.clear)
        self.table.clear()
        self.configure()
        self._undo.callback(lambda: self.path.write_devices({}))
        suffix = "_l3" if self.wire is Wire.BARE else ""
        for side in ("ingress", "egress"):
            fd = prog_run.program(str(loaded[Family.IPV4].programs / f"{side}{suffix}"))
            self._undo.callback(os.close, fd)
            self._programs[side] = fd
        if self.wire is Wire.BARE:
            self._bare = Bare(self._directory / "bare")
            self._undo.callback(self._bare.close)

    def configure(
        self,
        ports: PortRange = SOURCE_PORTS,
        cidrs: tuple[Prefix, ...] = (),
        options: Options | None = None,
    ) -> None:
        """Write the packet path's settings."""
        options = (options or Options("here"))._replace(local_cidrs=cidrs)
        self.path.configure(options, SocketTranslation.ALL, TIMEOUTS, ports)

    def keep_ports(self, ports: Iterable[int]) -> None:
        """Say which ports stand for no client; the test's end forgets it."""
        pins = self.node.loaded[self.family].pins
        words = [0] * WORDS
        for port in ports:
            words[port // WORD] |= 1 << port % WORD
        bits = ArrayMap(str(pins.shared / MAP), write=True)
        try:
            bits.write(0, b"".join(word.to_bytes(8, sys.byteorder) for word in words))
        finally:
            bits.close()

    def timeout(self, name: str) -> int:
        """Return a setting of that name: how many ticks a state lasts at most."""
        settings = ArrayMap(str(self.node.loaded[self.family].pins.maps / "settings"), write=False)
        try:
            return settings.load(SETTINGS.index(name))
        finally:
            settings.close()

    @property
    def path(self) -> PacketPath:
        """What the agent tells the packet path."""
        return self.node.loaded[self.family].path

    def write_device(self, source: bytes = b"", flags: int = 0) -> None:
        """Say what the packet path is to know of the device."""
        address = source or bytes(self.family.address_bytes)
        self.path.write_devices({self.ifindex: DeviceFacts(address, flags)})

    def write_frontend(self, end: End, protocol: Protocol, kind: Kind) -> None:
        """Write a frontend of a kind that no plan has yet; it belongs to no service there is."""
        datapath = self.node.loaded[self.family].datapath
        key = FrontendKey(*end, int(protocol))
        self._undo.callback(datapath.delete_frontends, [key])
        datapath.put_frontends([(key, FrontendValue(NO_SERVICE, kind))])

    @property
    def ifindex(self) -> int:
        """The device's."""
        return self._bare.ifindex if self._bare else LOOPBACK

    def tcp(self, src: End, dst: End, flags: int, payload: bytes = TEXT, **fields: int) -> bytes:
        """Return a TCP segment as the device has it; SYNs carry no payload unless told."""
        text = b"" if flags & SYN and payload is TEXT else payload
        return packets.tcp(src, dst, flags, text, head=self._head, **fields)  # type: ignore[arg-type] # numbers of a header

    def udp(self, src: End, dst: End, payload: bytes = TEXT, *, checksum: bool = True) -> bytes:
        """Return a UDP datagram as the device has it."""
        return packets.udp(src, dst, payload, checksum=checksum, head=self._head)

    def sctp(self, src: End, dst: End, chunk: int, payload: bytes = TEXT) -> bytes:
        """Return an SCTP packet of one chunk as the device has it."""
        return packets.sctp(src, dst, chunk, payload, head=self._head)

    def icmp(self, src: bytes, dst: bytes, kind: int, code: int, body: bytes) -> bytes:
        """Return an ICMP message as the device has it; `body` is all after the checksum."""
        return packets.icmp(src, dst, kind, code, body, head=self._head)

    def first(self, protocol: Protocol, src: End, dst: End) -> bytes:
        """Return what begins a connection: a SYN, INIT, or a datagram."""
        return self._said(protocol, src, dst, SYN, Chunk.INIT)

    def further(self, protocol: Protocol, src: End, dst: End) -> bytes:
        """Return what goes on in a connection: a segment in mid-stream, data, or a datagram."""
        return self._said(protocol, src, dst, ACK, Chunk.DATA)

    def answer(self, protocol: Protocol, src: End, dst: End) -> bytes:
        """Return what a backend answers first."""
        return self._said(protocol, src, dst, SYN | ACK, Chunk.INIT_ACK)

    def _said(self, protocol: Protocol, src: End, dst: End, flags: int, chunk: Chunk) -> bytes:
        if protocol is Protocol.TCP:
            return self.tcp(src, dst, flags)
        return self.udp(src, dst) if protocol is Protocol.UDP else self.sctp(src, dst, chunk)

    @contextmanager
    def heads(self, head: packets.Head) -> Iterator[None]:
        """Give packets that are made in the block this header."""
        before, self._plain = self._plain, head
        try:
            yield
        finally:
            self._plain = before

    @property
    def _head(self) -> packets.Head:
        options = NOPS if self.wire is not Wire.ETHERNET else b""
        return self._plain._replace(options=options)

    def ingress(self, packet: bytes) -> Ran:
        """Let an IP packet come in by the device; return the verdict and the IP packet then."""
        return self._run("ingress", packet)

    def egress(self, packet: bytes) -> Ran:
        """Let an IP packet leave by the device."""
        return self._run("egress", packet)

    def frame(self, side: str, frame: bytes, gso_size: int = 0) -> Ran:
        """Let a whole frame come in or leave; return it whole. A device cuts it by `gso_size`."""
        program = self._programs[side]
        return prog_run.run(program, frame, flags=self.flags, gso_size=gso_size)

    def mark_after(self, side: str, packet: bytes, mark: int) -> int:
        """Return the mark that a packet with a mark has after a hook."""
        frame = ether(packet, ETH_P[self.family])
        return prog_run.mark_after(self._programs[side], frame, mark)

    def program(self, side: str) -> int:
        """Return the descriptor of the program at a side."""
        return self._programs[side]

    @contextmanager
    def opened(self, family: Family, name: str) -> Iterator[Callable[[bytes], Ran]]:
        """Give what runs one of a family's programs, by name, on a frame."""
        with links.opened(self.node.loaded[family].programs / name) as fd:
            yield lambda frame: prog_run.run(fd, frame)

    def tuples(self, side: str, packet: bytes) -> Tuples:
        """Return what runs a frame of an IP packet again and again."""
        return Tuples(self._programs[side], ether(packet, ETH_P[self.family]))

    def _run(self, side: str, packet: bytes) -> Ran:
        if self._bare:
            return self._bare.run(self._programs[side], packet, self.flags)
        before = ether(packet, ETH_P[self.family])
        verdict, after = self.frame(side, before)
        macs = before[6:12] + before[:6] if verdict == prog_run.TC_REDIRECT else before[:12]
        assert after[:ETHERNET_BYTES] == macs + before[12:14]
        return Ran(verdict, after[ETHERNET_BYTES:])

    def grown(self, before: Mapping[str, int]) -> dict[str, int]:
        """Return the counters that have grown, and by how much."""
        now = self.node.counters(self.family)
        return {name: n - before[name] for name, n in now.items() if n != before[name]}


def let_device_sum(hooks: Hooks) -> None:
    """Have all packets summed by the device; EBADMSG says then that a program made that wrong."""
    frame = ether(packets.arp(), packets.ETH_P_ARP)
    if not prog_run.knows_checksum_complete(hooks.program("ingress"), frame):
        pytest.skip("this kernel's BPF_PROG_TEST_RUN cannot check it")
    hooks.flags = prog_run.CHECKSUM_COMPLETE


def passed(packet: bytes) -> Ran:
    """Return what is expected of a packet that passes, as it is or as another one."""
    return Ran(TC_NEXT, packet)


def dropped(packet: bytes) -> Ran:
    """Return what is expected of a packet that is dropped as it is."""
    return Ran(prog_run.TC_DROP, packet)
