# SPDX-License-Identifier: Apache-2.0
"""What is in the image, and what is not."""

from __future__ import annotations

import subprocess

import pyproxy
from tests.image.built import Image

LARGEST = 400_000_000
LEFT_OUT = (
    "etc/apt", "etc/pip.conf", "lib/modules", "usr/bin/apt-get", "usr/bin/bpftool", "usr/bin/clang",
    "usr/bin/gcc", "usr/bin/pip3", "usr/share/man", "usr/src", "tmp/build",
)  # fmt: skip
RESOLVES = (
    "find /usr /opt -type f \\( -perm /111 -o -name '*.so*' \\) -exec ldd {} + 2>/dev/null"
    " | grep 'not found' | sort -u"
)


def test_it_is_at_most_400_mb(image: Image) -> None:
    """Uncompressed, on every node."""
    assert image.bytes <= LARGEST, f"{image.bytes / 1e6:.0f} MB"


def test_it_starts_pyproxy_as_root_and_knows_nothing_of_who_built_it(image: Image) -> None:
    """No proxy and no index is in its variables, and what was mounted has left nothing."""
    assert (image.entrypoint, image.config["Cmd"]) == (("pyproxy",), ["run"])
    assert image.config["User"] == "0:0"
    names = {each.partition("=")[0] for each in image.environment}
    assert names == {"PATH", "LANG", "PYTHONDONTWRITEBYTECODE"}
    assert [*(image.root / "mnt").iterdir(), *(image.root / "tmp").iterdir()] == []


def test_what_only_installing_needs_is_left_out(image: Image) -> None:
    """No package manager, no compiler but bcc's library, no kernel headers."""
    found = [path for path in LEFT_OUT if any((image.root / path).glob("*"))]
    found += [path for path in LEFT_OUT if (image.root / path).is_file()]
    found += [path for path in ("pip", "setuptools", "aiohttp") if (image.packages / path).exists()]
    assert found == []


def test_every_library_that_something_needs_is_there(image: Image) -> None:
    """What was removed is missed by nothing that stays."""
    done = _run(image, "sh", "-c", RESOLVES)
    assert done.stdout == ""


def test_bytecode_of_all_that_is_imported_is_there(image: Image) -> None:
    """A start on a read-only root would otherwise compile it each time."""
    modules = [*(image.packages / "pyproxy").rglob("*.py"), *image.packages.glob("click/*.py")]
    assert len(modules) > 150
    lacking = [
        module for module in modules
        if not list((module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"))
    ]  # fmt: skip
    assert lacking == []


def test_it_says_its_version(image: Image) -> None:
    """That of the checkout."""
    assert pyproxy.__version__ in _run(image, "pyproxy", "--version").stdout


def _run(image: Image, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["chroot", image.root, "env", "-i", *image.environment, *command],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
