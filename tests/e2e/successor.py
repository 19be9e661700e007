# SPDX-License-Identifier: Apache-2.0
"""The agent that waits on a node while another one serves it, as during a roll-out with surge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Self

from pyproxy.agent import report
from tests.e2e.scene import Scene
from tests.e2e.traffic import Traffic
from tests.lab.agent import PYPROXY, Agent
from tests.lab.waiting import wait_for

PREPARED_S = 60.0


def expect_flow(traffic: Sequence[Traffic]) -> None:
    """Nothing is lost up to now."""
    for each in traffic:
        each.expect_flow()


class Successor:
    """The agent that waits on an agent's node, of the same program and with the same options.

    Use it in a `with` statement: it is gone afterwards.
    """

    def __init__(self, scene: Scene, before: Agent) -> None:
        self.before = before
        directory = scene.cluster.directory
        self.socket = directory / "probe.sock"
        options = ("--take-over", f"--probe-socket={self.socket}")
        self.agent = Agent(before.node, directory, before.bpffs, (*before.options, *options))
        self.agent.source = before.source
        self.agent.log = before.log.with_suffix(".next.log")

    def __enter__(self) -> Self:
        self.agent.launch()
        return self

    def __exit__(self, *_: object) -> None:
        if self.agent.running:
            self.agent.stop()

    def probe(self, what: str = "ready") -> tuple[int, str]:
        """Return the exit status of `pyproxy probe` and what it said."""
        done = self.agent.node.run(PYPROXY, "probe", what, f"--probe-socket={self.socket}")
        return done.returncode, done.stdout + done.stderr

    def await_prepared(self, traffic: Sequence[Traffic] = ()) -> None:
        """Wait until it is ready, which it must be before a roll-out ends the other agent.

        What of the traffic is held asks meanwhile: a flow of UDP ends after 30 s without packets.
        """

        def is_ready() -> bool:
            expect_flow(traffic)
            return not self.agent.running or self.probe()[0] == 0

        try:
            wait_for(is_ready, PREPARED_S, "the successor to be ready", 0.1)
        except TimeoutError as error:
            raise RuntimeError(f"{self.probe()}{self.agent.tail()}") from error
        assert self.agent.running, self.agent.tail()

    def serves(self) -> bool:
        """Return whether it is the node's agent, and synced."""
        state = report.read(self.agent.run_dir)
        return state is not None and state.synced and state.pid == self.agent.pid

    def takes_over(self, end: Callable[[], object]) -> float:
        """End the agent before; return after how many seconds this one had synced."""
        started = time.monotonic()
        end()
        wait_for(self.serves, 20, "the successor to serve", 0.001)
        return time.monotonic() - started
