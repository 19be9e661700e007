# SPDX-License-Identifier: Apache-2.0
"""What is taken as missing in this kernel, to see beforehand what goes on without it.

PYPROXY_ABSENT has names of `pyproxy check`, separated by commas: the agent and all commands then
find each of them absent, whatever the kernel has. It is for tests and for who plans for an older
kernel.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from pyproxy.errors import ConfigError

VARIABLE = "PYPROXY_ABSENT"

ROOT = "root"
CGROUP2 = "cgroup2"
BPFFS = "bpffs"
BCC = "bcc"
SET_RETVAL = "bpf_set_retval"
MPTCP = "bpf_skc_to_mptcp_sock"
TCX = "tcx"
SOCK_DESTROY = "SOCK_DESTROY"


def forced() -> frozenset[str]:
    """Return the names that are to be found absent."""
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return frozenset(name for name in names if name)


def is_forced(name: str) -> bool:
    """Say whether what has this name is to be found absent."""
    return name in forced()


def refuse_unknown(known: Collection[str]) -> None:
    """Raise ConfigError for a name that nothing has: forcing it absent would show nothing."""
    unknown = sorted(forced() - set(known))
    if unknown:
        raise ConfigError(
            f"{VARIABLE}: nothing that is probed has the name {', '.join(map(repr, unknown))}",
            f"the names are {', '.join(known)}",
        )
