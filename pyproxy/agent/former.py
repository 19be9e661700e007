# SPDX-License-Identifier: Apache-2.0
"""Takes over from kube-proxy: what it has left is removed, once a start (parity A17.7).

Not while it runs: it would only write its rules again. And not while IPVS carries connections,
which would end with its virtual servers; those of its rules go on (A21.5).
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from pyproxy.kernel import kubeproxy, kubeproxy_ipvs, kubeproxy_running

log = logging.getLogger(__name__)

STOP_S = 2.0
# others write rules at this very moment: a later look will do
_CHANGING = {errno.EAGAIN, errno.EINTR, errno.ENOENT}


class FormerProxy:
    """Removes kube-proxy's rules when nothing depends on them any more.

    A process of its own does so, `pyproxy cleanup --kube-proxy`: rules of thousands of services
    take their time, and the memory for them goes with it. What cannot be removed is logged, and
    tried again at the next start.
    """

    def __init__(self, run_dir: Path, *, wanted: bool) -> None:
        self._run_dir = run_dir
        self._is_due = wanted
        self._waits_for = ""
        self._child: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, name="former-proxy", daemon=True)

    def look(self) -> None:
        """Have its rules removed if there are any, and if it can be done; else a later look."""
        # a look at thousands of chains takes its time: not while it is known to be in vain
        if not self._is_due or (self._waits_for and self._has_to_wait()):
            return
        try:
            self._is_due = kubeproxy.is_there()
        except OSError as error:
            if error.errno in _CHANGING:
                return
            log.warning("whether kube-proxy has left rules is not known: %s", error)
            self._is_due = False
        if self._is_due and not self._has_to_wait():
            self._is_due = False
            self._start()

    def stop(self) -> None:
        """End the process if it still runs; what it has not removed, the next start does."""
        if self._child:
            self._child.terminate()
            self._reader.join(STOP_S)

    def _has_to_wait(self) -> bool:
        reason = kubeproxy_running.running(os.getpid())
        if not reason and (many := kubeproxy_ipvs.connections()):
            reason = f"IPVS, which carries {many} connections,"
        if reason and not self._waits_for:
            log.warning("kube-proxy's rules stay until %s has ended", reason)
        self._waits_for = reason
        return bool(reason)

    def _start(self) -> None:
        command = [sys.executable, "-m", "pyproxy", "cleanup", "--kube-proxy"]
        try:
            self._child = subprocess.Popen(
                [*command, "--run-dir", str(self._run_dir)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as error:
            log.warning("kube-proxy's rules stay until the next start: %s", error)
            return
        self._reader.start()

    def _read(self) -> None:
        if self._child is None:
            return
        said, _ = self._child.communicate()
        level = logging.WARNING if self._child.returncode else logging.INFO
        for line in said.splitlines():
            log.log(level, "kube-proxy's rules: %s", line)
