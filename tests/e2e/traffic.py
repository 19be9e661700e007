# SPDX-License-Identifier: Apache-2.0
"""Traffic that goes on while something happens to agents, and what must not happen to it."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.e2e.scene import FAMILIES, App, Scene
from tests.lab.hosts import Host
from tests.lab.prober import answered
from tests.lab.waiting import wait_for

BETWEEN = 20  # new connections seen between two acts
PAUSE_S = 0.01  # the flows of UDP stay in the table for minutes: it must hold them all


class Traffic:
    """Held sockets and streams of new ones, TCP and UDP in both families, of one client.

    Use it in a `with` statement, which ends by expecting that no stream has had a failure.
    """

    def __init__(self, own: Scene, web: App, client: Host) -> None:
        self.prober = client.prober
        self.pods = {pod.name for pod in own.cluster.pods}
        targets = [to for f in FAMILIES for to in (web.tcp(f), web.udp(f))]
        self.targets = {f"{to.protocol}{to.family}": to for to in targets}

    def __enter__(self) -> Self:
        for name, to in self.targets.items():
            assert self.prober.open(f"held-{name}", to).error == ""
            self.prober.start(name, replace(to, pause_s=PAUSE_S))
        self.servers = {name: self._held(name) for name in self.targets}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        drawn = {name: set(answered(self.prober.stop(name))) for name in self.targets}
        for name in self.targets:
            self.prober.close(f"held-{name}")
        if error is None:
            assert drawn == dict.fromkeys(self.targets, self.pods)

    def _held(self, name: str) -> set[str]:
        return set(answered(self.prober.ask(f"held-{name}", self.targets[name], 3)))

    def expect_flow(self) -> None:
        """Held sockets have their servers yet, and new connections come."""
        for name in self.targets:
            goal = self.prober.seen(name)[0] + BETWEEN
            wait_for(lambda n=name, g=goal: self.prober.seen(n)[0] >= g, 20, f"{goal} of {name}")  # type: ignore[misc]  # mypy can't infer a lambda with defaults
            assert self._held(name) == self.servers[name], name
