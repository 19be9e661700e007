# SPDX-License-Identifier: Apache-2.0
"""Connections come along when the connection table gets another size (datapath rule 23)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyproxy.kernel.barrier import wait_for_readers
from pyproxy.kernel.move import Move, total

log = logging.getLogger(__name__)


class Moves:
    """The moves out of all former tables, of each family; there are mostly none."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self._moves = tuple(moves)

    def begin(self) -> None:
        """From now on, packets bring their connections along; programs may be attached."""
        for each in self._moves:
            each.begin()

    def run(self) -> None:
        """Move all others, once new programs are attached; may be repeated."""
        if self._moves:
            # a program that was replaced may still be opening a connection
            wait_for_readers()
            moved, lost = total(each.run() for each in self._moves)
            log.info("moved %d connections to the new table, %d lost", moved, lost)

    def finish(self) -> None:
        """Forget the former tables; nothing happens the next time."""
        for each in self._moves:
            each.finish()
        self._moves = ()
