# SPDX-License-Identifier: Apache-2.0
"""Waiting no longer than so long for a call that runs somebody's plugin, and ending that one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Generic, TypeVar

_Result = TypeVar("_Result")

# How long a call may take to notice that its processes were killed.
_END_S = 1.0


class Bounded(Generic[_Result]):
    """Calls a function in a thread of its own, once at a time. For one caller at a time."""

    def __init__(self, function: Callable[[], _Result], limit_s: float) -> None:
        self._function = function
        self._limit_s = limit_s
        self._running: Future[_Result] | None = None
        self._thread: threading.Thread | None = None

    def __call__(self) -> _Result:
        """Return what the function returns, raise what it raises.

        Raises TimeoutError when that takes longer than the limit, after killing the processes
        that it has started. Should it go on all the same, later callers do not wait for it.
        """
        is_late, running = self._running is not None, self._running or self._start()
        try:
            return running.result(0 if is_late else self._limit_s)
        except TimeoutError:
            if not is_late:
                self._end(running)
            raise
        finally:
            self._running = None if running.done() else running
            # An exception keeps this frame, which must not keep it: nobody collects circles.
            del running

    def _start(self) -> Future[_Result]:
        future: Future[_Result] = Future()
        # a daemon: one that never ends keeps no agent from ending
        self._thread = threading.Thread(
            target=self._run, args=(future,), name="credentials", daemon=True
        )
        self._thread.start()
        return future

    def _run(self, future: Future[_Result]) -> None:
        try:
            future.set_result(self._function())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
        finally:
            del future

    def _end(self, running: Future[_Result]) -> None:
        thread = self._thread.native_id if self._thread else None
        for process in list(_descendants(os.getpid(), thread)) if thread else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait([running], _END_S)


def _descendants(process: int, thread: int) -> Iterator[int]:
    """Give the processes that a thread of a process has started, and what those have."""
    try:
        listed = Path(f"/proc/{process}/task/{thread}/children").read_text(encoding="ascii")
        children = [int(child) for child in listed.split()]
        tasks = {child: list(Path(f"/proc/{child}/task").iterdir()) for child in children}
    except OSError:  # one has ended meanwhile
        return
    for child in children:
        yield child
        for task in tasks[child]:
            yield from _descendants(child, int(task.name))
