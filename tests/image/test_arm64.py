# SPDX-License-Identifier: Apache-2.0
"""arm64, as far as it can be proved without such a machine: see docs/image.md.

bcc takes the machine that it compiles for from the variable ARCH: types, stub headers and what
LLVM knows of it. What comes of it is other code than this machine's, for the same instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.errors import KernelError
from pyproxy.kernel import features
from pyproxy.kernel.load import Request, finish, is_loaded, start
from pyproxy.model import Family
from tests.lab import netns


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of the test's own."""
    netns.mount("bpffs", tmp_path, "bpf")
    yield tmp_path
    netns.unmount(tmp_path)


def test_programs_compiled_for_arm64_pass_the_verifier(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All programs of both families."""
    monkeypatch.setenv("ARCH", "arm64")
    requests = [Request(bpffs, family, features.probe()) for family in Family]
    said = finish(start(requests))
    assert said.count("compiling for") == 2
    assert all(is_loaded(request) for request in requests)


def test_the_variable_decides_what_is_compiled_for(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without stub headers of ours is refused: the test above is about arm64."""
    monkeypatch.setenv("ARCH", "s390x")
    with pytest.raises(KernelError, match="do not compile"):
        finish(start([Request(bpffs, Family.IPV4, features.probe())]))
