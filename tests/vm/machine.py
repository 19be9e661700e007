# SPDX-License-Identifier: Apache-2.0
"""A machine that scripts/vm can provision: a folder for its files, fakes for the tools it calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake.sh")
TOOLS = (
    "apt-get", "apt-mark", "buildah", "chown", "ctr", "curl", "dpkg-query", "gpg", "kubeadm",
    "kubectl", "modprobe", "sleep", "sudo", "swapoff", "swapon", "sysctl", "systemctl",
)  # fmt: skip
KEY = "DE15B14486CD377B9E876E1A234654DA9A296436"
FSTAB = "# <file system> <mount point>\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n"
# A checkout with what an image is made of.
SOURCES = {
    "Dockerfile": "FROM scratch\n",
    "pyproject.toml": "[project]\n",
    "pyproxy/__init__.py": '"""It."""\n__version__ = "1.2.3"\n',
    "bpf/types.h": "struct it;\n",
    "scripts/lock/dev.txt": "",
    "scripts/lock/runtime.txt": "",
    "deploy/base/kustomization.yaml": "resources: []\n",
}
# A .venv that `make_venv dev` takes for a finished one.
FINISH_VENV = """
. "$1/scripts/lib/setup.sh"
mkdir -p "$venv/bin"
touch "$venv/bin/pyproxy" && chmod +x "$venv/bin/pyproxy"
venv_stamp dev >"$venv/.made-dev"
"""


class Machine:
    """Runs the scripts as the Vagrantfile does, and knows what they did."""

    def __init__(self, folder: Path, *, proxy: str = "pyproxy", number: int = 0) -> None:
        self.root = folder / "root"
        self.fake = folder / "fake"
        self.checkout = folder / "checkout"
        self.env = {
            "PROXY": proxy,
            "KUBERNETES": "1.34.2",
            "NODE_NUMBER": str(number),
            "JOIN_TOKEN": "abcdef.0123456789abcdef",
        }
        tools = folder / "tools"
        for each in (self.fake, tools, self.root / "etc/kubernetes/manifests"):
            each.mkdir(parents=True)
        for tool in TOOLS:
            (tools / tool).symlink_to(FAKE)
        self._given = {"PATH": f"{tools}:/usr/bin:/bin", "VM_ROOT": str(self.root)}
        self.write("etc/fstab", FSTAB)
        self.tell("key", KEY)
        self._make_checkout()

    def _make_checkout(self) -> None:
        for name, text in SOURCES.items():
            path = self.checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        shutil.copytree(ROOT / "scripts/vm", self.checkout / "scripts/vm")
        (self.checkout / "scripts/lib").mkdir()
        shutil.copy(ROOT / "scripts/lib/setup.sh", self.checkout / "scripts/lib")

    def make_venv(self) -> None:
        """Let the checkout have a .venv, whose Python is one of the fakes."""
        command = ["bash", "-euc", FINISH_VENV, "finish", str(self.checkout)]
        subprocess.run(command, check=True)
        (self.checkout / ".venv/bin/python").symlink_to(FAKE)

    def tell(self, name: str, text: str) -> None:
        """Let the fakes know something; see fake.sh."""
        (self.fake / name).write_text(f"{text}\n", "utf-8")

    def told(self, name: str) -> str:
        """Return what a fake was given or keeps."""
        return (self.fake / name).read_text("utf-8")

    def write(self, name: str, text: str) -> None:
        """Write a file of the machine."""
        (self.root / name).write_text(text, "utf-8")

    def read(self, name: str) -> str:
        """Return a file of the machine."""
        return (self.root / name).read_text("utf-8")

    def files(self) -> dict[str, tuple[int, int]]:
        """Return the machine's files, with what changes if one is written or replaced."""
        return {
            str(each): (each.stat().st_mtime_ns, each.stat().st_ino)
            for each in self.root.rglob("*")
            if each.is_file()
        }

    def run(self, *scripts: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run scripts, one after the other; return the first one that fails, or the last."""
        (self.fake / "calls").write_text("")
        for script in scripts:
            done = subprocess.run(
                [str(self.checkout / f"scripts/vm/{script}.sh")],
                env={"HOME": os.environ["HOME"], "FAKE": str(self.fake)}
                | self._given
                | self.env
                | env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                break
        return done

    def provision(self, *scripts: str) -> list[str]:
        """Run scripts that must succeed; return the calls that change a machine."""
        done = self.run(*scripts)
        assert done.returncode == 0, done.stderr
        return list(self.changes())

    def changes(self) -> Iterator[str]:
        """Return what the last run has called, without what only looks."""
        looks = ("dpkg-query ", "swapon ", "sleep ")
        for call in self.told("calls").splitlines():
            if not call.startswith(looks) and " images list " not in call and " get " not in call:
                yield call
