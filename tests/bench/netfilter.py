# SPDX-License-Identifier: Apache-2.0
"""Rules of netfilter in a node's network namespace, put on the path of packets and taken off.

Off has to be as if they had never been: no hook, no connection tracking. The kernel destroys
what a transaction deleted after a grace period, by a worker, and only then lets go of tracking
(nf_tables_trans_destroy_work()), so the end of the command says nothing. It is asked of the
kernel: a datagram over the node's loopback device makes an entry exactly while tracking is on.
"""

from __future__ import annotations

import abc
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.lab import netns
from tests.lab.waiting import wait_for

COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
GONE_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 120.0
NOT_FOUND = 127  # nsenter's status, as a shell's
# Nobody listens there, and nobody needs to.
DISCARD = (("127.0.0.1", 9), ("::1", 9))

# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_DELETE = 2
NLM_F_REQUEST_ACK = 1 | 4
NLMSG_ERROR = 2


class Rules(abc.ABC):
    """Rules in a node's namespace that can be turned on and off; off at first."""

    def __init__(self, namespace: Path, tracking: Tracking) -> None:
        self._namespace = namespace
        self._tracking = tracking
        self._is_on = False

    @abc.abstractmethod
    def _put(self, on: bool) -> None:
        """Bring the rules on the path of packets, or off it."""

    def turn(self, on: bool) -> None:
        """Put the rules on the path of packets, or off it; nothing happens where that is so.

        Returns when connection tracking is on, or off and without an entry. Raises PyproxyError
        with what the tool said, and TimeoutError.
        """
        if on == self._is_on:
            return
        self._put(on)
        self._is_on = on
        what = f"connection tracking to be {'on' if on else 'off'}"
        wait_for(lambda: self._tracking.is_on() == on, GONE_TIMEOUT_S, what, interval_s=0.001)

    def _run(self, text: str, *command: str, package: str) -> None:
        """Give a command of a package a text; raises PyproxyError with what it said."""
        tool = command[0]
        try:
            done = subprocess.run(
                ["nsenter", f"--net={self._namespace}", *command],
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise PyproxyError(f"{tool} did not end within {COMMAND_TIMEOUT_S:g} s") from error
        if done.returncode == NOT_FOUND:
            raise PyproxyError(f"{tool} is missing", f"apt-get install {package}")
        if done.returncode != 0:
            said = done.stderr.strip() or "without a word"
            raise PyproxyError(f"{tool} refused the rules: {said[:2000]}")


class Tracking:
    """Connection tracking in a network namespace, asked by datagrams to nobody."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._undo = ExitStack()
        self._table, *self._senders = netns.inside(namespace, self._opened)

    def close(self) -> None:
        """Close the sockets."""
        self._undo.close()

    def is_on(self) -> bool:
        """Tell whether packets of either family are tracked; forgets all entries."""
        self.forget()
        for sender, to in zip(self._senders, DISCARD, strict=True):
            sender.sendto(b"?", to)
        entries = self.entries()
        self.forget()
        return entries > 0

    def entries(self) -> int:
        """Return how many entries there are."""
        # Whose entries are counted depends on the namespace of the thread that reads.
        return int(netns.inside(self._namespace, COUNT.read_text))

    def forget(self) -> None:
        """Remove all entries, of every family; raises OSError."""
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
        header = struct.pack("=IHHII", 20, kind, NLM_F_REQUEST_ACK, 0, 0)
        self._table.send(header + struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))
        answer, error = struct.unpack_from("=4xH10xi", self._table.recv(4096))
        if answer != NLMSG_ERROR or error:
            raise OSError(-error, "connection tracking can't be emptied")

    def _opened(self) -> list[socket.socket]:
        sockets = [
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        ]
        for each in sockets:
            self._undo.callback(each.close)
        return sockets
