# SPDX-License-Identifier: Apache-2.0
"""Conversations that go on, between a client outside and a pod, by a NodePort of the first node."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.e2e.scene import Scene, counters
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.hosts import Host, Node
from tests.lab.waiting import wait_for

PORT = 7790
NODE_PORTS = {"here": 31_410, "elsewhere": 31_420}
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
TIMEOUT_S = 5.0
IMPATIENT_S = 0.1


class Talk:
    """A client and the backend that answers it, on one connection or between two UDP sockets."""

    def __init__(self, scene: Scene, where: str, family: int, kind: str) -> None:
        self.scene, self.family, self.kind = scene, family, kind
        self.agent: Agent = scene.agents[0]
        self.node: Node = scene.cluster.nodes[0]
        self.pod = scene.cluster.nodes[where == "elsewhere"].pods[0]
        self._undo = ExitStack()
        self._backend = self._socket(self.pod)
        self._backend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._backend.bind((self.pod.address(family), PORT))
        self.client = self._socket(scene.cluster.client)
        to = (self.node.address(family), NODE_PORTS[where])
        if kind == "TCP":
            self._backend.listen()
            wait_for(partial(self._connects, to), TIMEOUT_S, "the service")
            self._served = self._undo.enter_context(self._backend.accept()[0])
            self._served.settimeout(TIMEOUT_S)
        else:
            self.client.connect(to)
            wait_for(partial(self.answers, IMPATIENT_S), TIMEOUT_S, "the service")

    def _socket(self, host: Host) -> socket.socket:
        domain = socket.AF_INET6 if self.family == 6 else socket.AF_INET
        made = netns.inside(host.netns, lambda: socket.socket(domain, KINDS[self.kind]))
        made.settimeout(TIMEOUT_S)
        return self._undo.enter_context(made)

    def _connects(self, to: tuple[str, int]) -> bool:
        return self.client.connect_ex(to) == 0

    def close(self) -> None:
        """Close all sockets."""
        self._undo.close()

    def say(self, text: bytes) -> None:
        """Send from the client to the backend and back; raises OSError where that fails."""
        if self.kind == "TCP":
            self.client.sendall(text)
            assert self._served.recv(len(text), socket.MSG_WAITALL) == text
            self._served.sendall(text)
            assert self.client.recv(len(text), socket.MSG_WAITALL) == text
            return
        self.client.send(text)
        while True:
            asked, peer = self._backend.recvfrom(65_536)
            if asked == text:
                break
        self._backend.sendto(text, peer)
        while self.client.recv(65_536) != text:
            pass

    def answers(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Return whether a datagram of now is answered in time."""
        for each in (self.client, self._backend):
            each.settimeout(timeout_s)
        try:
            self.say(os.urandom(8))
        except OSError:
            return False
        finally:
            for each in (self.client, self._backend):
                each.settimeout(TIMEOUT_S)
        return True

    def is_fast(self) -> bool:
        """Return whether a request and its answer skip the node's stack, both."""
        before = counters(self.agent, self.family)["packet_fast"]
        self.say(b"is this fast?")
        return counters(self.agent, self.family)["packet_fast"] - before >= 2

    def await_fast(self) -> None:
        """Wait until it is so, which it becomes again once a second at the least."""
        wait_for(self.is_fast, TIMEOUT_S, "the fast path")

    def await_slow(self) -> None:
        """Wait until it is not, and stays so."""
        wait_for(self._stays_slow, TIMEOUT_S, "the stack")

    def _stays_slow(self) -> bool:
        before = counters(self.agent, self.family)["packet_fast"]
        for _ in range(5):
            self.say(b"is this slow?")
        return counters(self.agent, self.family)["packet_fast"] == before


@contextmanager
def talking(scene: Scene, where: str, family: int, kind: str) -> Iterator[Talk]:
    """Give a client and its backend, whose packets skip the node's stack by now."""
    talk = Talk(scene, where, family, kind)
    try:
        talk.await_fast()
        yield talk
    finally:
        talk.close()
