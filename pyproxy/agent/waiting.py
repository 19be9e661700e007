# SPDX-License-Identifier: Apache-2.0
"""An agent that is to take over: it prepares all it can, and waits for the one that runs to end.

Nothing of the node's is written before the lock is held, but for programs that nobody runs
(kernel/load.py). So it may be killed at any time, and so may the other one.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable

import pyproxy
from pyproxy.agent.config import RunConfig
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.kernel import Ahead
from pyproxy.agent.messages import Message, Messages, MyTurn, Prepared, Stop
from pyproxy.kernel.lock import Lock, Turn
from pyproxy.kernel.lock import Waiting as Word
from pyproxy.kube.events import Event

log = logging.getLogger(__name__)

_PLACE = "its place: another agent waits here already"
_PROGRAMS = "its programs"
_LISTS = "its first lists"


class Waiting:
    """Takes events into the inbox, and has programs compiled and loaded, until it is its turn.

    `start_source` is called once nobody else waits before this one.
    """

    def __init__(
        self, config: RunConfig, messages: Messages, inbox: Inbox, start_source: Callable[[], None]
    ) -> None:
        self._config = config
        self._messages = messages
        self._inbox = inbox
        self._start_source = start_source
        self._turn = Turn(config.run_dir)
        self._ahead: Ahead | None = None
        self._lock: Lock | None = None
        self._lacks = _PLACE
        self._failure = ""
        self._is_loaded = False

    def lacks(self) -> str:
        """Return what is not prepared yet, "" if all is; any thread may ask."""
        return self._lacks

    def run(self) -> Lock | Stop:
        """Return the lock once it is held, or what has ended the wait."""
        log.info("another agent runs here: preparing to take over from it")
        threading.Thread(target=self._queue_up, name="turn", daemon=True).start()
        try:
            while True:
                for each in self._messages.wait(None):
                    if isinstance(each, Stop):
                        return each
                    self._take(each)
                # what is being loaded would have to be loaded again
                if self._lock and (self._is_loaded or self._failure):
                    log.info("the other agent has ended: taking over")
                    return self._lock
                self._prepare()
        finally:
            self._end()

    def _queue_up(self) -> None:
        """Wait for the place behind the other agent and then for its own, in a thread."""
        self._turn.wait()
        self._messages.put(MyTurn(None))
        lock = Lock(self._config.run_dir, self._config.bpffs_root, waits=True)
        self._messages.put(MyTurn(lock))

    def _take(self, message: Message) -> None:
        if isinstance(message, MyTurn):
            self._lock = message.lock
            if self._ahead is None:
                self._ahead = Ahead(self._config, self._messages.put)
                self._start_source()
        elif isinstance(message, Prepared):
            self._failure, self._is_loaded = message.failure, not message.failure
            if self._failure:
                log.error("programs cannot be prepared: %s", self._failure)
        elif isinstance(message, Event):
            self._inbox.take(message)

    def _prepare(self) -> None:
        if self._ahead is None:
            return
        if self._inbox.synced:
            self._inbox.world.replan()
        lacks = "" if self._is_loaded else _PROGRAMS
        lacks += f": {self._failure}" if self._failure else ""
        lacks = lacks or ("" if self._inbox.synced else _LISTS)
        if lacks != self._lacks:
            self._lacks = lacks
            self._turn.note(Word(os.getpid(), pyproxy.__version__, lacks))
        if not lacks and not gc.isenabled():
            log.info("prepared: taking over when the other agent ends")
            # the wait may be long; what is there now mostly stays
            gc.freeze()
            gc.enable()

    def _end(self) -> None:
        # without them its thread still waits for the place, and ends with the process
        if self._ahead:
            self._ahead.stop(forget=self._lock is None)
            self._turn.release()
