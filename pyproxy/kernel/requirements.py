# SPDX-License-Identifier: Apache-2.0
"""What a node must have, each probed, each with its remedy: the list behind `pyproxy check`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyproxy.errors import ConfigError, KernelError, PyproxyError
from pyproxy.kernel import absent, cgroup, diag, features, libbpf
from pyproxy.kernel.mounts import NODES_BPFFS, bpffs_of, outlives_us
from pyproxy.kernel.programs import CGROUP_SOCK_ADDR, SCHED_CLS

_NEWER = "use a kernel of 5.15 or newer with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"


class Check(NamedTuple):
    """One requirement. `required` is False for what only costs a feature; remedy is "" when ok."""

    name: str
    ok: bool
    required: bool
    message: str
    remedy: str


class _Requirement(NamedTuple):
    name: str
    required: bool
    probe: Callable[[], bool]
    present: str
    absent: str
    remedy: str


def requirements(cgroup_root: Path | None, bpffs_root: Path) -> list[_Requirement]:
    """Return everything that is probed, in the order in which it is needed."""
    return [
        _Requirement(absent.ROOT, True, lambda: os.geteuid() == 0, "runs as root",
                     "does not run as root", "run it as root or with sudo"),
        *_kernel(),
        *_mounts(cgroup_root, bpffs_root),
        *_packages(),
    ]  # fmt: skip


def _kernel() -> list[_Requirement]:
    maps = (
        ("hash maps", features.MAP_HASH),
        ("LRU hash maps", features.MAP_LRU_HASH),
        ("per-CPU array maps", features.MAP_PERCPU_ARRAY),
        ("program arrays", features.MAP_PROG_ARRAY),
        ("LPM tries", features.MAP_LPM_TRIE),
        ("socket storage", features.MAP_SK_STORAGE),
    )
    helpers = (
        ("bpf_sk_storage_get in tc programs", SCHED_CLS, features.HELPER_SK_STORAGE_GET),
        ("bpf_sk_storage_get in socket hooks", CGROUP_SOCK_ADDR, features.HELPER_SK_STORAGE_GET),
        ("bpf_get_netns_cookie in socket hooks", CGROUP_SOCK_ADDR,
         features.HELPER_GET_NETNS_COOKIE),
        ("bpf_ktime_get_coarse_ns in tc programs", SCHED_CLS,
         features.HELPER_KTIME_GET_COARSE_NS),
    )  # fmt: skip
    return [
        *(_needs(name, partial(libbpf.map_type_exists, kind)) for name, kind in maps),
        _needs("socket address hooks", lambda: libbpf.program_type_exists(CGROUP_SOCK_ADDR)),
        _needs("tc programs", lambda: libbpf.program_type_exists(SCHED_CLS)),
        *(_needs(name, partial(libbpf.helper_exists, kind, number))
          for name, kind, number in helpers),
        *_optional(),
    ]  # fmt: skip


def _optional() -> list[_Requirement]:
    """Return what only costs a feature where it is missing."""
    return [
        _Requirement(absent.SET_RETVAL, False, lambda: features.probe().set_retval,
                     "sockets are told what is refused",
                     "processes of the node may bind NodePorts, and unconnected sockets hear "
                     "nothing of datagrams to services without endpoints",
                     "use a kernel of 5.18 or newer where that matters"),
        _Requirement(absent.MPTCP, False, lambda: features.probe().mptcp,
                     "MPTCP sockets see the service that they asked for as their peer",
                     "MPTCP sockets see a backend as their peer",
                     "use a kernel of 5.19 or newer with CONFIG_MPTCP where that matters"),
        _Requirement(absent.TCX, False, libbpf.tcx_exists, "devices take tcx links",
                     "devices get tc filters on a clsact qdisc, which excludes the CNI "
                     "bandwidth plugin", "use a kernel of 6.6 or newer, or leave that plugin out"),
        _Requirement(absent.SOCK_DESTROY, False, diag.can_destroy,
                     "the node's connected UDP sockets learn that their backend left",
                     "the node's connected UDP sockets send on to a backend that left",
                     "use a kernel with CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY"),
    ]  # fmt: skip


def _needs(name: str, probe: Callable[[], bool]) -> _Requirement:
    return _Requirement(name, True, probe, "present", "missing in this kernel", _NEWER)


def _mounts(cgroup_root: Path | None, bpffs_root: Path) -> list[_Requirement]:
    def has_cgroup() -> bool:
        return bool(cgroup.check(cgroup_root) if cgroup_root else cgroup.find_root())

    return [
        _Requirement(absent.CGROUP2, True, has_cgroup, "mounted", "not mounted",
                     "mount it with 'mount -t cgroup2 none /sys/fs/cgroup/unified'"),
        _Requirement(absent.BPFFS, True, lambda: is_on_nodes_bpffs(bpffs_root),
                     f"{bpffs_root} lies on one", f"{bpffs_root} does not lie on one",
                     "mount it with 'mount -t bpf bpf /sys/fs/bpf'"),
    ]  # fmt: skip


def is_on_nodes_bpffs(bpffs_root: Path) -> bool:
    """Return whether a path lies on a bpffs; raises ConfigError where that is a container's own."""
    found = bpffs_of(bpffs_root)
    if found and not outlives_us(found):
        raise ConfigError(f"what is pinned at {bpffs_root} ends with this container", NODES_BPFFS)
    return found is not None


def _packages() -> list[_Requirement]:
    def has_bcc() -> bool:
        return importlib.util.find_spec("bcc") is not None

    return [
        _Requirement(absent.BCC, True, has_bcc, "installed", "its Python module is not installed",
                     "install the package python3-bpfcc"),
    ]  # fmt: skip


def check(cgroup_root: Path | None, bpffs_root: Path) -> list[Check]:
    """Probe everything. A probe that needs root is not tried without it.

    Raises ConfigError where PYPROXY_ABSENT names what is not probed.
    """
    probed = requirements(cgroup_root, bpffs_root)
    absent.refuse_unknown([each.name for each in probed])
    found: list[Check] = []
    for each in probed:
        found.append(_tried(each))
        if each.name == absent.ROOT and not found[-1].ok:
            break
    return found


def need(cgroup_root: Path | None, bpffs_root: Path) -> None:
    """Raise KernelError with all that an agent cannot do without here.

    bcc is not of it: who finds its programs kept from before does not compile.
    """
    missing = [
        each
        for each in check(cgroup_root, bpffs_root)
        if each.required and not each.ok and each.name != absent.BCC
    ]
    if missing:
        said = ", ".join(f"{each.name} ({each.message})" for each in missing)
        remedies = dict.fromkeys(each.remedy for each in missing)
        raise KernelError(f"this node lacks what the agent needs: {said}", "; ".join(remedies))


def _tried(requirement: _Requirement) -> Check:
    message = ""
    try:
        ok = not absent.is_forced(requirement.name) and requirement.probe()
    except (PyproxyError, OSError) as error:
        ok, message = False, str(error)
    text = requirement.present if ok else message or requirement.absent
    remedy = "" if ok else requirement.remedy
    return Check(requirement.name, ok, requirement.required, text, remedy)
