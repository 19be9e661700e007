# SPDX-License-Identifier: Apache-2.0
"""Waiting no longer than so long for a call that cannot be ended, as that of somebody's plugin."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Bounded(Generic[_Result]):
    """Calls a function in a thread of its own, once at a time. For one caller at a time."""

    def __init__(self, function: Callable[[], _Result], limit_s: float) -> None:
        self._function = function
        self._limit_s = limit_s
        self._running: Future[_Result] | None = None

    def __call__(self) -> _Result:
        """Return what the function returns, raise what it raises.

        Raises TimeoutError when that takes longer than the limit. The call goes on then, what
        comes of it is for a later caller, and those before do not wait.
        """
        late, running = self._running is not None, self._running or self._start()
        self._running = running
        try:
            return running.result(0 if late else self._limit_s)
        finally:
            if running.done():
                self._running = None

    def _start(self) -> Future[_Result]:
        future: Future[_Result] = Future()
        # a daemon: one that never ends keeps no agent from ending
        threading.Thread(target=self._run, args=(future,), name="credentials", daemon=True).start()
        return future

    def _run(self, future: Future[_Result]) -> None:
        try:
            future.set_result(self._function())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
