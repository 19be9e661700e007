# SPDX-License-Identifier: Apache-2.0
"""Moving connections out of tables of other sizes, under traffic (datapath rule 23).

Programs do it (bpf/adopt.c): only they can take a record by compare-and-exchange. Once new
programs are attached, a packet that finds nothing brings its connection along; a run over the
records of a former table does the same for those whose packets are yet to come. Either may be
repeated, and ended at any time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel import load, testrun
from pyproxy.kernel.links import opened
from pyproxy.kernel.pins import remove_tree
from pyproxy.kernel.programs import MOVE

CHUNK = 65_536  # records a system call; a signal waits no longer than those take
RANKS = range(3)  # move_rank() of bpf/adopt.c
FRAME = struct.Struct("=16x7I")  # struct move of bpf/adopt.c


class Moved(NamedTuple):
    """How many connections came along, and for how many there was no room."""

    moved: int = 0
    lost: int = 0


class Move:
    """The move of one family's connections from former tables, the newest first.

    `request` names them; its programs are loaded.
    """

    def __init__(self, request: load.Request) -> None:
        self._formers = request.formers
        self._programs = request.pins.programs(request.build().digest)

    def begin(self) -> None:
        """From now on, packets bring their connections along; programs may be attached."""
        if self._formers:
            load.look_back(self._programs, len(self._formers))

    def run(self) -> Moved:
        """Move what is in the former tables; nobody opens connections there any more."""
        programs = [
            self._programs / load.of_former(MOVE, place) for place in range(len(self._formers))
        ]
        return total(move(program) for program in programs)

    def finish(self) -> None:
        """Forget the former tables: nobody uses them."""
        load.look_back(self._programs, 0)
        for table in self._formers:
            remove_tree(table)
        self._formers = ()


def move(program: Path) -> Moved:
    """Run a pinned program `move` over all records of its former table.

    What is established comes first, and what is over last, where there is not room for all.
    """
    with opened(program) as fd:
        return total(_move(fd, rank) for rank in RANKS)


def _move(fd: int, rank: int) -> Moved:
    frame = FRAME.pack(0, rank, 0, 0, 0, 0, 0)
    while True:
        frame = testrun.repeat(fd, frame, CHUNK)
        *_, is_done, moved, lost = FRAME.unpack(frame)
        if is_done:
            return Moved(moved, lost)


def total(parts: Iterable[Moved]) -> Moved:
    """Add up what parts of a move have done."""
    each = list(parts)
    return Moved(sum(part.moved for part in each), sum(part.lost for part in each))
