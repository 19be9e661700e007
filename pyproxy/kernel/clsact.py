# SPDX-License-Identifier: Apache-2.0
"""tc filters on a clsact qdisc, for kernels without tcx (before 6.6).

The qdisc may be someone else's: it is removed only if we made it and nothing of anybody's is
left on it (datapath rule 1). Who made it is remembered in the run-dir.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.errors import KernelError
from pyproxy.kernel import libbpf, links

INGRESS = 0xFFFFFFF2  # TC_H_CLSACT with TC_H_MIN_INGRESS
EGRESS = 0xFFFFFFF3
ETH_P_ALL = 0x0003
OWNED = "clsact.json"

# before filters that somebody added without a preference (the kernel counts down from 49152)
PREFERENCE = 10


# the filter's handle, and how its name, as tc shows it, begins; the program's tag and id follow
HANDLE = 1
NAME = "pyproxy-"


class Filter(NamedTuple):
    """A filter of ours: on which device and side."""

    ifindex: int
    parent: int


@contextmanager
def _route() -> Iterator[Any]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - 0.2 s that 'pyproxy status' does not need
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise KernelError(f"tc: {error}", errno=error.code) from error


class Clsact:
    """Our filters in this network namespace."""

    def __init__(self, run_dir: Path) -> None:
        self._owned_file = run_dir / OWNED

    def ensure(self, wanted: Filter, program: Path) -> bool:
        """Make a filter run the program pinned at `program`; return whether anything changed."""
        with links.opened(program) as fd, _route() as route:
            info = libbpf.program_info(fd)
            # a program with other maps has the same tag
            name = f"{info.tag}-{info.id}"
            if self._find(route, wanted) == name:
                return False
            self._make_qdisc(route, wanted.ifindex)
            route.tc(
                "replace-filter",
                "bpf",
                wanted.ifindex,
                handle=HANDLE,
                fd=fd,
                name=NAME + name,
                parent=wanted.parent,
                prio=PREFERENCE,
                protocol=ETH_P_ALL,
                direct_action=True,
            )
        return True

    def tag(self, wanted: Filter) -> str | None:
        """Return the tag of the program a filter runs, None if there is no such filter."""
        with _route() as route:
            found = self._find(route, wanted)
        return found.partition("-")[0] if found else None

    def remove(self, wanted: Filter) -> None:
        """Remove a filter, and the qdisc if we made it and it is empty now."""
        with _route() as route:
            if self._find(route, wanted) is not None:
                route.tc(
                    "del-filter",
                    "bpf",
                    wanted.ifindex,
                    handle=HANDLE,
                    parent=wanted.parent,
                    prio=PREFERENCE,
                    protocol=ETH_P_ALL,
                )
            if self._is_ours(route, wanted.ifindex) and not self._filters(route, wanted.ifindex):
                route.tc("del", "clsact", wanted.ifindex)
                self._disown(wanted.ifindex)

    def before(self, ours: Filter) -> list[str]:
        """Return the filters of others that run before ours, if ours is there, by name."""
        with _route() as route:
            if self._find(route, ours) is None:
                return []
            found = route.get_filters(index=ours.ifindex, parent=ours.parent)
            return [_name(each) for each in found if 0 < each["info"] >> 16 < PREFERENCE]

    def _find(self, route: Any, wanted: Filter) -> str | None:
        """Return tag and id in the filter's name: the kernel's are not decoded by pyroute2."""
        for each in route.get_filters(index=wanted.ifindex, parent=wanted.parent):
            options = each.get_attr("TCA_OPTIONS")
            name = options.get_attr("TCA_BPF_NAME") if options is not None else None
            if name and name.startswith(NAME):
                return str(name.removeprefix(NAME))
        return None

    def _filters(self, route: Any, ifindex: int) -> list[Any]:
        return [
            each
            for parent in (INGRESS, EGRESS)
            for each in route.get_filters(index=ifindex, parent=parent)
        ]

    def _make_qdisc(self, route: Any, ifindex: int) -> None:
        kinds = [each.get_attr("TCA_KIND") for each in route.get_qdiscs(index=ifindex)]
        if "clsact" in kinds:
            return
        if "ingress" in kinds:
            raise KernelError(
                f"device {ifindex} has an ingress qdisc, which excludes clsact",
                "the CNI's bandwidth plugin makes it: use a kernel with tcx (6.6) or leave the "
                "device out with --devices",
            )
        route.tc("add", "clsact", ifindex)
        self._write(self._owned() | {str(ifindex): _identity(route, ifindex)})

    def _is_ours(self, route: Any, ifindex: int) -> bool:
        """Return whether we made the qdisc of this very device: an ifindex is used again."""
        return self._owned().get(str(ifindex)) == _identity(route, ifindex)

    def _disown(self, ifindex: int) -> None:
        self._write({k: v for k, v in self._owned().items() if k != str(ifindex)})

    def _owned(self) -> dict[str, str]:
        try:
            owned = json.loads(self._owned_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return owned if isinstance(owned, dict) else {}

    def _write(self, owned: dict[str, str]) -> None:
        self._owned_file.write_text(json.dumps(owned), encoding="utf-8")


def _name(each: Any) -> str:
    """Return what to call a filter: its name, else its kind; and its preference."""
    options = each.get_attr("TCA_OPTIONS")
    name = options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None
    return f"{name or each.get_attr('TCA_KIND')} (preference {each['info'] >> 16})"


def _identity(route: Any, ifindex: int) -> str:
    """Return what tells a device from another one that gets its ifindex: name and address."""
    for link in route.get_links(ifindex):
        return f"{link.get_attr('IFLA_IFNAME')} {link.get_attr('IFLA_ADDRESS')}"
    return ""
