# SPDX-License-Identifier: Apache-2.0
"""Where things are: cgroup2, bpffs, the lock, the sources; and what a node must have."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import pyproxy
from pyproxy.errors import ConfigError, KernelError
from pyproxy.kernel import cgroup, diag, features, libbpf, requirements, source
from pyproxy.kernel.features import Features
from pyproxy.kernel.lock import (
    AgentRunningError,
    Lock,
    Turn,
    Waiting,
    holder,
    root_is_in_use,
    waiting,
)
from pyproxy.kernel.mounts import Mount, bpffs_of, is_root_of_container, mounts, outlives_us
from pyproxy.model import Family

HYBRID = """24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
26 24 0:24 /kubepods/x /run/container rw - cgroup2 none rw
27 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 none rw
"""


def mountinfo(tmp_path: Path, text: str) -> Path:
    """Return a file with these mounts."""
    path = tmp_path / "mountinfo"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_whole_hierarchy_is_found(tmp_path: Path) -> None:
    """A mount of a container's part of it is passed over (rule 22)."""
    found = cgroup.find_root(mountinfo(tmp_path, HYBRID))
    assert found == Path("/sys/fs/cgroup/unified")


def test_a_node_without_cgroup2_is_told_what_to_do(tmp_path: Path) -> None:
    """The remedy has the command."""
    with pytest.raises(KernelError, match="mount -t cgroup2"):
        cgroup.find_root(mountinfo(tmp_path, "".join(HYBRID.splitlines(keepends=True)[:2])))


def test_a_cgroup_root_must_be_one(tmp_path: Path) -> None:
    """A directory with the right files on another file system is refused."""
    (tmp_path / "cgroup.procs").touch()
    with pytest.raises(ConfigError, match="not on cgroup2"):
        cgroup.check(tmp_path)
    with pytest.raises(ConfigError, match="no directory"):
        cgroup.check(tmp_path / "gone")


def test_what_lies_on_no_bpffs_is_known(tmp_path: Path) -> None:
    """Also of directories that do not exist yet."""
    assert bpffs_of(tmp_path / "not" / "there") is None


BPFFS = """31 29 0:32 / /sys/fs/bpf rw{} - bpf bpf rw,mode=700
"""


@pytest.mark.parametrize(
    ("tags", "namespace", "outlives"),
    [
        ("", "pid:[4026531836]", True),  # a node whose mounts are nobody else's
        (" shared:9", "pid:[4026531836]", True),
        (" master:9", "pid:[4026532777]", True),  # HostToContainer
        (" shared:9", "pid:[4026532777]", True),  # Bidirectional; or a container that is a node
        (" shared:9 master:8", "pid:[4026532777]", True),
        ("", "pid:[4026532777]", False),  # mounted in the pod, or without propagation
        (" unbindable", "pid:[4026532777]", False),
    ],
)
def test_pins_must_not_end_with_a_container(
    tmp_path: Path, tags: str, namespace: str, *, outlives: bool
) -> None:
    """Who cannot say that a bpffs is the node's has to take it for the container's (rule 22)."""
    (found,) = mounts(mountinfo(tmp_path, BPFFS.format(tags)))
    assert found == Mount("0:32", "/", Path("/sys/fs/bpf"), tuple(tags.split()), "bpf")
    link = tmp_path / "pid"
    link.symlink_to(namespace)
    assert outlives_us(found, link) is outlives


# what a pod sees by a hostPath, with a cgroup namespace of its own
POD = """30 1 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup rw
31 1 0:27 /../../.. {} ro - cgroup2 cgroup rw
"""


def test_the_nodes_cgroups_are_found_in_a_pod(tmp_path: Path) -> None:
    """Not the pod's own, which looks like a root there (rule 22)."""
    assert cgroup.find_root(mountinfo(tmp_path, POD.format("/host"))) == Path("/host")


@pytest.mark.parametrize(("own", "is_refused"), [("/", True), ("/init.scope", False)])
def test_a_containers_own_cgroups_are_refused(
    tmp_path: Path, own: str, *, is_refused: bool
) -> None:
    """But for a container that plays a node, whose processes have cgroups of their own in it."""
    table = mountinfo(tmp_path, f"30 1 0:27 / {tmp_path} ro - cgroup2 cgroup rw\n")
    cgroups = tmp_path / "cgroup"
    cgroups.write_text(f"1:name=systemd:/\n0::{own}\n", encoding="utf-8")
    assert is_root_of_container(cgroups) is is_refused
    if is_refused:
        with pytest.raises(KernelError, match="this container's part") as raised:
            cgroup.find_root(table, cgroups)
        assert "hostPath" in raised.value.remedy
    else:
        assert cgroup.find_root(table, cgroups) == tmp_path


def test_the_lock_is_held_by_one(tmp_path: Path) -> None:
    """The second agent is refused with the first one's pid; release frees it."""
    assert holder(tmp_path) is None
    root = tmp_path / "bpf"
    lock = Lock(tmp_path, root)
    assert holder(tmp_path) == os.getpid()
    with pytest.raises(AgentRunningError, match=str(os.getpid())):
        Lock(tmp_path, tmp_path / "other")
    lock.release()
    assert holder(tmp_path) is None


def test_one_bpffs_root_is_one_agents(tmp_path: Path) -> None:
    """Two agents with run-dirs of their own would hand out the same ids in the same maps."""
    root = tmp_path / "bpf"
    assert not root_is_in_use(root)
    lock = Lock(tmp_path / "one", root)
    assert root_is_in_use(root)
    with pytest.raises(AgentRunningError, match="bpffs root"):
        Lock(tmp_path / "two", root)
    lock.release()
    assert not root_is_in_use(root)


def test_who_waits_gets_the_lock_when_its_holder_ends(tmp_path: Path) -> None:
    """Both, as soon as they are free; who has let go of his cannot do so with another's."""
    root, got = tmp_path / "bpf", list[Lock]()
    first = Lock(tmp_path, root)
    waiter = threading.Thread(target=lambda: got.append(Lock(tmp_path, root, waits=True)))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()
    first.release()
    waiter.join(10)
    first.release()
    assert holder(tmp_path) == os.getpid()
    assert root_is_in_use(root)
    got[0].release()


def test_a_lock_that_cannot_be_had_holds_nothing(tmp_path: Path) -> None:
    """Where the bpffs root is another's, the run-dir is free again."""
    root = tmp_path / "bpf"
    lock = Lock(tmp_path / "one", root)
    for _ in range(2):
        with pytest.raises(AgentRunningError, match="bpffs root"):
            Lock(tmp_path / "two", root)
    lock.release()
    Lock(tmp_path / "two", root).release()


def test_who_waits_is_known(tmp_path: Path) -> None:
    """By its own word; one that has just come has said nothing, one that went is nobody."""
    assert waiting(tmp_path) is None
    turn = Turn(tmp_path)
    turn.wait()
    assert waiting(tmp_path) is None
    for word in (Waiting(7, "1.2.3", "its programs" * 50), Waiting(7, "1.2.3", "")):
        turn.note(word)
        assert waiting(tmp_path) == word
    turn.release()
    assert waiting(tmp_path) is None


def test_who_asks_for_the_holder_keeps_no_agent_from_starting(tmp_path: Path) -> None:
    """'pyproxy status' in a loop holds the lock for moments; a start waits for these."""
    asking = threading.Event()
    asker = threading.Thread(target=lambda: [holder(tmp_path) for _ in iter(asking.is_set, True)])
    asker.start()
    try:
        for _ in range(200):
            Lock(tmp_path, tmp_path / "bpf").release()
    finally:
        asking.set()
        asker.join()


def test_includes_are_flattened_once_with_their_lines(tmp_path: Path) -> None:
    """Compiler messages name the file and line that a person has to open."""
    (tmp_path / "a.h").write_text("int a;\n", encoding="utf-8")
    (tmp_path / "b.h").write_text('#include "a.h"\nint b;\n', encoding="utf-8")
    (tmp_path / "m.c").write_text('#include "a.h"\n#include "b.h"\nint m;\n', encoding="utf-8")
    assert source.flatten(tmp_path, ("m.c",)) == (
        '#line 1 "m.c"\n#line 1 "a.h"\nint a;\n#line 2 "m.c"\n#line 1 "b.h"\n'
        '#line 2 "b.h"\nint b;\n#line 3 "m.c"\nint m;\n'
    )


SIZES, ABLE = source.Sizes(), Features(set_retval=True, mptcp=True, tcx=True)


def test_the_digest_follows_what_the_programs_depend_on() -> None:
    """Another family, feature, map size or place of a former table is another object."""
    one, again = (source.build(Family.IPV4, SIZES, ABLE) for _ in range(2))
    others = [
        source.build(Family.IPV6, SIZES, ABLE),
        source.build(Family.IPV4, source.Sizes(max_udp=1), ABLE),
        source.build(Family.IPV4, SIZES, ABLE._replace(set_retval=False)),
        *(source.build_adoption(place, one) for place in range(2)),
    ]
    assert (one.digest, one.key) == (again.digest, again.key)
    for names in ({each.digest for each in (one, *others)}, {each.key for each in (one, *others)}):
        assert len(names) == 6


@pytest.mark.parametrize(
    ("part", "kept"), [("release", True), ("version", True), ("machine", False)]
)
def test_what_is_compiled_on_one_kernel_is_loaded_on_another(
    monkeypatch: pytest.MonkeyPatch, part: str, *, kept: bool
) -> None:
    """The programs in the kernel are others after an update of it, and what they are made of not.

    What another machine compiles is for that one.
    """
    one = source.build(Family.IPV4, SIZES, ABLE)
    digest, key = one.digest, one.key
    here = os.uname()
    fields = {name: getattr(here, name) for name in ("release", "version", "machine")}
    other = SimpleNamespace(**fields | {part: "another"})
    monkeypatch.setattr(os, "uname", lambda: other)
    assert one.digest != digest
    assert (one.key == key) is kept


@pytest.mark.parametrize(("place", "name"), [(pyproxy, "__version__"), (source, "FORMAT")])
def test_another_version_compiles_its_own(
    monkeypatch: pytest.MonkeyPatch, place: ModuleType, name: str
) -> None:
    """How it reads what is kept may have changed."""
    one = source.build(Family.IPV4, SIZES, ABLE)
    key = one.key
    monkeypatch.setattr(place, name, "another")
    assert one.key != key


def refuse(*_: object) -> bool:
    """Stand for a kernel that lacks everything."""
    return False


def test_every_missing_feature_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is absent, check lists it; only what merely limits is not required."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for probe in ("map_type_exists", "program_type_exists", "helper_exists", "tcx_exists"):
        monkeypatch.setattr(libbpf, probe, refuse)
    monkeypatch.setattr(diag, "can_destroy", refuse)
    nothing = Features(set_retval=False, mptcp=False, tcx=False)
    monkeypatch.setattr(features, "probe", lambda: nothing)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = requirements.check(tmp_path, tmp_path)
    missing = [each for each in found if not each.ok]
    assert {each.name for each in found} - {each.name for each in missing} == {"root"}
    assert all(each.remedy for each in missing)
    assert {each.name for each in missing if not each.required} == {
        *("bpf_set_retval", "bpf_skc_to_mptcp_sock", "tcx", "SOCK_DESTROY")
    }


def test_without_root_nothing_else_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear remedy instead of a list of EPERM."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (only,) = requirements.check(tmp_path, tmp_path)
    assert (only.name, only.ok) == ("root", False)
