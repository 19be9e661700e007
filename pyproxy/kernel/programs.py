# SPDX-License-Identifier: Apache-2.0
"""Which programs there are: from which source, of which type, at which hook."""

from __future__ import annotations

from typing import NamedTuple

from pyproxy.model import Family

CGROUP_SOCK = 9  # enum bpf_prog_type
CGROUP_SOCK_ADDR = 18
SCHED_CLS = 3

TCX_INGRESS = 46  # enum bpf_attach_type
TCX_EGRESS = 47


class Program(NamedTuple):
    """One program of a family's object.

    `hook` is the kernel's word for where it runs, `attach_type` its number there; tc programs
    are attached to many devices in two directions and have none of their own.
    """

    name: str
    hook: str
    source: str
    type: int
    attach_type: int = 0


_SOCKET_HOOKS = {
    # hook: attach type for IPv4, for IPv6
    "connect": (10, 11),
    "sendmsg": (14, 15),
    "recvmsg": (19, 20),
    "getpeername": (29, 30),
}

# IPv6 sockets may bind IPv4-mapped addresses, and all of both families at once
_POST_BIND = {
    Family.IPV4: (
        Program("post_bind", "post_bind4", "bind.c", CGROUP_SOCK, 12),
        Program("post_bind_mapped", "post_bind6", "bindmapped.c", CGROUP_SOCK, 13),
    ),
    Family.IPV6: (Program("post_bind", "post_bind6", "bind.c", CGROUP_SOCK, 13),),
}

SOCK_RELEASE = Program("sock_release", "sock_release", "release.c", CGROUP_SOCK, 34)

# where packets enter, in the order of `enum entry_point` of bpf/types.h
ENTRIES = (
    Program("ingress", "tc ingress", "ingress.c", SCHED_CLS),
    Program("ingress_l3", "tc ingress", "ingress.c", SCHED_CLS),
    Program("egress", "tc egress", "egress.c", SCHED_CLS),
    Program("egress_l3", "tc egress", "egress.c", SCHED_CLS),
)

# where tail calls lead, in the order of `enum stage`
STAGES = (
    Program("ingress_again", "tail call", "ingress.c", SCHED_CLS),
    Program("egress_again", "tail call", "egress.c", SCHED_CLS),
    Program("open", "tail call", "open.c", SCHED_CLS),
    Program("join", "tail call", "join.c", SCHED_CLS),
    Program("reopen", "tail call", "reopen.c", SCHED_CLS),
    Program("left", "tail call", "left.c", SCHED_CLS),
    Program("open_direct", "tail call", "direct.c", SCHED_CLS),
    Program("bridged", "tail call", "bridged.c", SCHED_CLS),
    Program("source", "tail call", "source.c", SCHED_CLS),
    Program("apart", "tail call", "apart.c", SCHED_CLS),
    Program("aside", "tail call", "aside.c", SCHED_CLS),
    Program("back", "tail call", "back.c", SCHED_CLS),
    Program("pass", "tail call", "pass.c", SCHED_CLS),
    Program("refuse", "tail call", "refuse.c", SCHED_CLS),
    Program("refresh", "tail call", "refresh.c", SCHED_CLS),
    Program("icmp", "tail call", "icmp.c", SCHED_CLS),
    Program("headers", "tail call", "headers.c", SCHED_CLS),
    Program("stale", "tail call", "stale.c", SCHED_CLS),
    Program("fast", "tail call", "fast.c", SCHED_CLS),
    Program("way", "tail call", "way.c", SCHED_CLS),
)

# an object for each former connection table, there while connections come from it: the stages
# after those, and what moves connections without a packet
FORMER_TABLES = 4
ADOPT = Program("adopt", "tail call", "adopt.c", SCHED_CLS)
MOVE = Program("move", "BPF_PROG_TEST_RUN", "adopt.c", SCHED_CLS)

# program arrays, pinned beside the programs that are in them
STAGE_ARRAY = "stages"
OTHER_FAMILY_ARRAY = "other_family"


def socket_programs(family: Family) -> tuple[Program, ...]:
    """Return the cgroup programs of a family, those for IPv4-mapped addresses included."""
    index = 0 if family is Family.IPV4 else 1
    native = [
        Program(name, f"{name}{family.value}", "sock.c", CGROUP_SOCK_ADDR, types[index])
        for name, types in _SOCKET_HOOKS.items()
    ]
    if family is Family.IPV6:
        return (*native, *_POST_BIND[family])
    mapped = [
        Program(f"{name}_mapped", f"{name}6", "mapped.c", CGROUP_SOCK_ADDR, types[1])
        for name, types in _SOCKET_HOOKS.items()
    ]
    # what it empties is shared by both families
    return (*native, *mapped, *_POST_BIND[family], SOCK_RELEASE)


def programs(family: Family) -> tuple[Program, ...]:
    """Return all programs of a family."""
    return socket_programs(family) + ENTRIES + STAGES


def sources(family: Family) -> tuple[str, ...]:
    """Return the source files of a family's object, in order."""
    return tuple(dict.fromkeys(program.source for program in programs(family)))
