# SPDX-License-Identifier: Apache-2.0
"""What ends an agent from outside its one thread: signals, and threads that crash."""

from __future__ import annotations

import logging
import os
import signal
import threading

from pyproxy.agent.messages import Messages, Stop

log = logging.getLogger(__name__)


def watch_signals(messages: Messages) -> threading.Event:
    """Put Stop when SIGTERM or SIGINT arrives, whichever thread the kernel gives it to.

    Returns an event that is set then, for who is not at the queue yet.

    A Python handler runs only when the main thread wakes up, and a signal that another thread
    received does not wake it; the wake-up descriptor is written by the C handler itself.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    stopping = threading.Event()

    def wait() -> None:
        os.read(reader, 1)
        stopping.set()
        messages.put(Stop())

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stopping


def crashed(crash: threading.ExceptHookArgs) -> Stop:
    """Log a thread's unexpected end: an agent that no longer hears of changes must not go on."""
    name = crash.thread.name if crash.thread else "?"
    log.critical("the thread %s ended unexpectedly", name, exc_info=crash.exc_value)
    return Stop(f"the thread {name} ended unexpectedly: {crash.exc_value}")
