# SPDX-License-Identifier: Apache-2.0
"""One text for bcc out of bpf/*.c and *.h, and its digest.

bcc rewrites map accesses only in the main file (is_rewritable_ext_func in its
b_frontend_action.cc), so quoted includes are flattened; #line keeps compiler messages
pointing at the real file.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyproxy
from pyproxy.errors import KernelError
from pyproxy.kernel.bytecode import FORMAT
from pyproxy.kernel.cpus import possible_cpus
from pyproxy.kernel.features import Features
from pyproxy.kernel.programs import ADOPT, STAGES, sources
from pyproxy.model import Family

# A shard of what is counted by service takes 1 MB a family; more CPUs than this share them.
MOST_SHARDS = 32

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


class Sizes(NamedTuple):
    """How many entries the maps hold; names as in bpf/maps.h.

    Arrays and LRU maps take their memory when they are made: 70 MB a node with these numbers, and
    2 MB for each CPU up to 32, which count by service. Hash maps take it as they fill.
    """

    max_frontends: int = 131_072
    max_services: int = 65_536
    max_slots: int = 524_288
    max_members: int = 524_288
    max_nodes: int = 16_384
    max_connected: int = 16_384
    max_connected_udp: int = 65_536
    max_udp: int = 16_384
    max_connections: int = 65_536
    max_devices: int = 16_384
    max_cidrs: int = 256
    max_hops: int = 4_096
    max_node_addresses: int = 16_384
    max_sources: int = 16_384
    max_affinity: int = 65_536
    max_fragments: int = 8_192


class Build(NamedTuple):
    """Everything that one family's object depends on."""

    family: Family
    text: str
    cflags: tuple[str, ...]

    @property
    def key(self) -> str:
        """16 hex digits that change whenever what compiling makes would."""
        made_by = (os.uname().machine, pyproxy.__version__, str(FORMAT), headers())
        return _digest(self.text, *self.cflags, *made_by)

    @property
    def digest(self) -> str:
        """16 hex digits that change whenever the programs in the kernel would."""
        kernel = os.uname()
        return _digest(self.key, kernel.release, kernel.version)


@cache
def headers() -> str:
    """Return the text of the stub headers, which stand in for the kernel's."""
    files = sorted(path for path in (bpf_directory() / "include").rglob("*") if path.is_file())
    return "".join(path.read_text(encoding="utf-8") for path in files)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def bpf_directory() -> Path:
    """Return where the C sources are: inside the package when installed, else beside it."""
    package = Path(pyproxy.__file__).parent
    for candidate in (package / "bpf", package.parent / "bpf"):
        if (candidate / "types.h").is_file():
            return candidate
    raise KernelError("the C sources (bpf/types.h) are missing", "install pyproxy again")


def flatten(directory: Path, names: tuple[str, ...]) -> str:
    """Return one text: the files in order, each quoted include in place once."""
    seen: set[str] = set()
    return "".join(_flat(directory, name, seen) for name in names)


def _flat(directory: Path, name: str, seen: set[str]) -> str:
    seen.add(name)
    parts = [f'#line 1 "{name}"\n']
    lines = (directory / name).read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        included = _INCLUDE.match(line)
        if not included:
            parts.append(line)
            continue
        if included[1] not in seen:
            parts.append(_flat(directory, included[1], seen))
        parts.append(f'#line {number + 1} "{name}"\n')
    return "".join(parts)


def build(family: Family, sizes: Sizes, features: Features) -> Build:
    """Return what to compile for a family: all programs."""
    settings = {name.upper(): value for name, value in sizes._asdict().items()}
    cpus = possible_cpus()
    settings |= {
        "FAMILY": family.value,
        "TRAFFIC_CPUS": cpus,
        "TRAFFIC_SHARDS": shards_for(cpus),
        "HAVE_SET_RETVAL": int(features.set_retval),
        "HAVE_MPTCP": int(features.mptcp),
    }
    cflags = tuple(f"-D{name}={value}" for name, value in settings.items())
    return Build(family, flatten(bpf_directory(), sources(family)), cflags)


def shards_for(cpus: int) -> int:
    """Return into how many parts CPUs count what services have: a power of two."""
    return int(min(1 << (cpus - 1).bit_length(), MOST_SHARDS))


def build_adoption(place: int, of: Build) -> Build:
    """Return what to compile to bring connections along from a former table.

    `place` is its place among them. It belongs to the programs that `of` makes.
    """
    flags = (*of.cflags, f"-DADOPT_STAGE={len(STAGES) + place}")
    return Build(of.family, flatten(bpf_directory(), (ADOPT.source,)), flags)
