# SPDX-License-Identifier: Apache-2.0
"""systemd-networkd, in the network namespace of the near side (tests/lab/networkd.sh)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyproxy.model import Family
from tests.datapath.wire import DEVICE, FAR, NEAR, Wire, end_address
from tests.lab.waiting import wait_for

SCRIPT = Path(__file__).parents[1] / "lab" / "networkd.sh"
CONFIGURED = f"{DEVICE}: State changed: configuring -> configured"
PATIENCE_S = 20
NAME = "10-wire.network"
NETWORK = f"""
[Match]
Name={DEVICE}
[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
""" + "".join(
    f"""
[Address]
Address={end_address(family, NEAR)}/{24 if family is Family.IPV4 else 64}
DuplicateAddressDetection=none
[Route]
Gateway={end_address(family, FAR)}
"""
    for family in Family
)


class Networkd:
    """A running networkd, which has given the near device its addresses and routes."""

    def __init__(self, wire: Wire, folder: Path) -> None:
        self._wire, self._folder = wire, folder
        self._log = folder / "networkd.log"
        self._log.touch()
        (folder / NAME).write_text(NETWORK, encoding="ascii")
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, more: str = "") -> None:
        """Say how the near device is to be configured, and more; a reload takes it up."""
        run = Path(f"/proc/{self._pid}/root/run/systemd/network")
        (run / NAME).write_text(NETWORK + more, encoding="ascii")

    def start(self) -> None:
        """Start it and wait until the near device is as its folder says."""
        namespace = f"--net={self._wire.paths[NEAR]}"
        unshare = ["unshare", "--mount", "--propagation", "private"]
        script = ["sh", str(SCRIPT), str(self._folder)]
        with self.configuring():
            self._process = subprocess.Popen(["nsenter", namespace, *unshare, *script])

    @contextmanager
    def configuring(self) -> Iterator[None]:
        """Wait after the block until networkd has configured the device once more."""
        before = self._configured()
        yield
        wait_for(lambda: self._configured() > before, PATIENCE_S, "networkd to configure the wire")

    @property
    def _pid(self) -> int:
        assert self._process
        return self._process.pid

    def _configured(self) -> int:
        return self._log.read_text(encoding="utf-8", errors="replace").count(CONFIGURED)

    def control(self, *words: str) -> None:
        """Run networkctl; raises CalledProcessError."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--net"]
        subprocess.run([*enter, "networkctl", *words], check=True)

    def stop(self) -> None:
        """End it, if it runs, as its service is stopped: what it has configured stays."""
        if not self._process:
            return
        # the script's own child, which it waits for
        subprocess.run(["pkill", "--parent", str(self._pid), "systemd-network"], check=False)
        status, self._process = self._process.wait(PATIENCE_S), None
        assert status == 0
