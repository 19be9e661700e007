# SPDX-License-Identifier: Apache-2.0
"""What holds for some seconds alone is said again and again, and taken back at once."""

from __future__ import annotations

from pyproxy.agent.bridged import LEASE_S, Bridged
from pyproxy.model import Family
from tests.lab.waiting import wait_for

IPV4, IPV6 = Family
BEAT_S = 0.01


class Path:
    """Stands for a PacketPath: what was written to it."""

    def __init__(self) -> None:
        self.said: list[int] = []

    def write_bridged(self, seconds: int) -> None:
        """Note for how long."""
        self.said.append(seconds)


def test_it_is_said_at_once_and_again() -> None:
    """Of the families for which it is so; of others once that it is not."""
    paths = {IPV4: Path(), IPV6: Path()}
    bridged = Bridged(paths, BEAT_S)  # type: ignore[arg-type] # has what it uses of PacketPath
    bridged.use({IPV4})
    assert (paths[IPV4].said, paths[IPV6].said) == ([LEASE_S], [0])
    bridged.start()
    wait_for(lambda: len(paths[IPV4].said) > 3, 5, "it to be said again")
    bridged.use(())
    assert paths[IPV4].said[-1] == 0
    bridged.stop()
    assert set(paths[IPV6].said) == {0}


def test_an_agent_that_stops_takes_it_back() -> None:
    """Nobody will cover the pods that start from now on."""
    paths = {IPV4: Path()}
    bridged = Bridged(paths, BEAT_S)  # type: ignore[arg-type] # as above
    bridged.start()
    bridged.use({IPV4})
    bridged.stop()
    assert paths[IPV4].said[-1] == 0
