# SPDX-License-Identifier: Apache-2.0
"""The short-lived loader: compiles, loads and pins one family's programs and maps, then exits.

Run as `python -m pyproxy.kernel.load`; a request (JSON) comes on stdin. Programs are pinned
in a directory of their own that gets its name in one rename: it is there whole or not at all.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from pyproxy.errors import KernelError, PyproxyError
from pyproxy.kernel import libbpf
from pyproxy.kernel.bytecode import Bytecode
from pyproxy.kernel.features import Features
from pyproxy.kernel.kept import Kept
from pyproxy.kernel.links import opened
from pyproxy.kernel.objects import Object
from pyproxy.kernel.pins import CONNECTED, UNFINISHED, Pins, make_directory, put_away, remove_tree
from pyproxy.kernel.programs import (
    ADOPT,
    FORMER_TABLES,
    MOVE,
    OTHER_FAMILY_ARRAY,
    STAGE_ARRAY,
    STAGES,
    Program,
    programs,
)
from pyproxy.kernel.source import Build, Sizes, bpf_directory, build, build_adoption
from pyproxy.model import Family

LOAD_TIMEOUT_S = 300  # verifiers walk two million instructions; guests without KVM take 100 s
ASK_EVERY_S = 0.1

# what is pinned of bpf/maps.h, by where that is; in bpf/shared.h are the maps of both families
FLOW_MAPS = ("connections", "nat")
SHARED_MAPS = (*CONNECTED, "kept_ports", "socket_marks")
MAPS = (
    "affinity", "begun", "cluster_cidrs", "counters", "devices", "fragments", "frontends",
    "hop_sources", "local_cidrs", "marks", "members", "moments", "node_addresses", "node_names",
    "node_networks",
    "service_names", "services", "settings", "slots", "sock_nat", "sources", "traffic",
    "udp_backends", "udp_services", "ways",
)  # fmt: skip

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class LoadingEndedError(PyproxyError):
    """Nobody wants what is being loaded any more."""


class Request:
    """What to load: a family's objects below a bpffs root, with maps of these sizes.

    `formers` is where connection tables of other sizes are pinned, the newest first, whose
    connections are to come along; FORMER_TABLES at most. In `cache_dir` compiled objects are
    kept, None keeps none. With `ahead` nothing is to change for an agent that runs: programs are
    compiled, and loaded beside its own where they fit its maps.
    """

    def __init__(
        self,
        root: Path,
        family: Family,
        features: Features,
        sizes: Sizes | None = None,
        *,
        formers: Sequence[Path] = (),
        cache_dir: Path | None = None,
        ahead: bool = False,
    ) -> None:
        self.pins = Pins(root, family)
        self.family = family
        self.features = features
        self.sizes = sizes or Sizes()
        self.formers = tuple(formers)
        self.cache_dir = cache_dir
        self.ahead = ahead

    @property
    def connections(self) -> Path:
        """Where the connection table is pinned."""
        return self.pins.connections(self.sizes.max_connections)

    def build(self) -> Build:
        """Return the sources and settings this request is for."""
        return build(self.family, self.sizes, self.features)

    def pinned_maps(self) -> dict[str, Path]:
        """Return where maps are pinned, by name."""
        places = {
            self.connections: FLOW_MAPS,
            self.pins.maps: MAPS,
            self.pins.shared: SHARED_MAPS,
        }
        return {name: place / name for place, names in places.items() for name in names}


def _to_json(requests: Sequence[Request]) -> str:
    return json.dumps(
        [
            (
                *(str(r.pins.root), r.family.value, r.features, r.sizes),
                list(map(str, r.formers)),
                r.cache_dir and str(r.cache_dir),
                r.ahead,
            )
            for r in requests
        ]
    )


def _from_json(text: str) -> list[Request]:
    return [
        Request(
            Path(root),
            Family(family),
            Features(*features),
            Sizes(*sizes),
            formers=list(map(Path, formers)),
            cache_dir=cache_dir and Path(cache_dir),
            ahead=ahead,
        )
        for root, family, features, sizes, formers, cache_dir, ahead in json.loads(text)
    ]


def fill_stages(programs: Path) -> int:
    """Put the stages into their array, beside which they are pinned; return how many it lacked."""
    return fill_array(programs / STAGE_ARRAY, [programs / stage.name for stage in STAGES])


def pinned(request: Request) -> list[Path]:
    """Return the pins of everything that is loaded for a request: programs and maps, not links."""
    directory = request.pins.programs(request.build().digest)
    names = [program.name for program in programs(request.family)]
    return [
        *(directory / name for name in (*names, STAGE_ARRAY, OTHER_FAMILY_ARRAY)),
        *request.pinned_maps().values(),
    ]


def is_loaded(request: Request) -> bool:
    """Return whether these very programs are pinned already, all of them, and their maps.

    Programs may outlive their table, where a device could not be given others; and somebody may
    have removed pins.
    """
    return all(pin.exists() for pin in pinned(request))


def start(requests: Sequence[Request]) -> subprocess.Popen[str]:
    """Start a loader for requests of the two families.

    finish() waits for it.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "pyproxy.kernel.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if child.stdin is None:
        raise KernelError("the loader has no stdin")
    child.stdin.write(_to_json(requests))
    child.stdin.close()
    child.stdin = None
    return child


def finish(child: subprocess.Popen[str], is_wanted: Callable[[], bool] = lambda: True) -> str:
    """Wait for a loader and return what it said; raise KernelError with that if it failed.

    Raises LoadingEndedError as soon as `is_wanted` says no.
    """
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        try:
            output, _ = child.communicate(timeout=ASK_EVERY_S)
            break
        except subprocess.TimeoutExpired:
            late = time.monotonic() > deadline
            if late or not is_wanted():
                child.kill()
                child.communicate()
            if late:
                raise KernelError(f"the loader did not finish in {LOAD_TIMEOUT_S} s") from None
            if child.returncode is not None:
                raise LoadingEndedError("loading was ended") from None
    if child.returncode:
        raise KernelError(output.strip() or f"the loader ended with {child.returncode}")
    return str(output.strip())


def load(request: Request) -> None:
    """Compile, check and pin what is missing; runs inside the loader."""
    if request.ahead:
        _load_ahead(request)
        return
    if not is_loaded(request):
        _load_programs(request)
    for place, former in enumerate(request.formers):
        _load_adoption(request, place, former)


def _bytecode(request: Request, wanted: Build) -> Bytecode:
    """Return what is kept of a build, or compile and keep it."""
    kept = Kept(request.cache_dir) if request.cache_dir else None
    found = kept.read(wanted.key) if kept else None
    if found:
        return found
    from pyproxy.kernel.compiler import compile_object  # noqa: PLC0415 - dear, and rarely needed

    print(f"compiling for {wanted.family.label}", flush=True)  # noqa: T201 - the agent logs it
    made = compile_object(wanted.text, wanted.cflags, bpf_directory() / "include")
    problem = kept.write(wanted.key, made) if kept else ""
    if problem:
        print(f"compiled programs are not kept: {problem}", flush=True)  # noqa: T201 - as above
    return made


def _load_adoption(request: Request, place: int, former: Path) -> None:
    programs_of = request.build()
    directory = request.pins.programs(programs_of.digest)
    code = _bytecode(request, build_adoption(place, programs_of))
    pins = request.pinned_maps() | {f"former_{name}": former / name for name in FLOW_MAPS}
    pins[STAGE_ARRAY] = directory / STAGE_ARRAY
    with Object(code, pins) as made:
        for program in (ADOPT, MOVE):
            pin = directory / of_former(program, place)
            pin.unlink(missing_ok=True)
            made.pin_program(program, pin)


def of_former(program: Program, place: int) -> str:
    """Return the pin of a program that was compiled for a former table, by its place among them."""
    return f"{program.name}_{place}"


def _load_programs(request: Request) -> None:
    wanted = request.build()
    request.pins.make(request.sizes.max_connections)
    code, pins = _bytecode(request, wanted), request.pinned_maps()
    for directory in (request.pins.maps, request.pins.shared, request.connections):
        _refuse_strangers(directory, set(pins.values()))
    _pin_programs(request, code, request.pins.programs(wanted.digest))


def _load_ahead(request: Request) -> None:
    """Compile, and load what only lacks programs: the maps are those of the agent that runs.

    Where it has others (another layout, a table of another size) the rest is done later.
    """
    if is_loaded(request):
        return
    wanted = request.build()
    code = _bytecode(request, wanted)
    has_maps = all(pin.exists() for pin in request.pinned_maps().values())
    if has_maps and request.pins.is_used(request.sizes.max_connections):
        _pin_programs(request, code, request.pins.ahead(wanted.digest))


def _pin_programs(request: Request, code: Bytecode, final: Path) -> None:
    unfinished = final.with_name(final.name + UNFINISHED)
    remove_tree(unfinished)
    with Object(code, request.pinned_maps()) as made:
        put_away(final)
        make_directory(unfinished)
        for program in programs(request.family):
            made.pin_program(program, unfinished / program.name)
        # an array that is not pinned loses its programs with the last process that has it open
        for name in (STAGE_ARRAY, OTHER_FAMILY_ARRAY):
            made.pin_map(name, unfinished / name)
        fill_stages(unfinished)
        unfinished.rename(final)


def _refuse_strangers(directory: Path, ours: Container[Path]) -> None:
    for pin in sorted(path for path in directory.iterdir() if path.is_file()):
        if pin not in ours:
            raise KernelError(f"{pin} is no map of this version", "run 'pyproxy cleanup'")


def look_back(programs: Path, formers: int) -> None:
    """Let programs look into so many former tables, for which adoption was loaded.

    `programs` is their directory. What was loaded for others is forgotten.
    """
    pins = [programs / of_former(ADOPT, place) for place in range(formers)]
    fill_array(programs / STAGE_ARRAY, pins, len(STAGES))
    with opened(programs / STAGE_ARRAY) as fd:
        for place in range(formers, FORMER_TABLES):
            libbpf.map_delete(fd, (len(STAGES) + place).to_bytes(4, sys.byteorder))
            for program in (ADOPT, MOVE):
                (programs / of_former(program, place)).unlink(missing_ok=True)


def fill_array(array: Path, wanted: Sequence[Path], first: int = 0) -> int:
    """Put pinned programs into a pinned program array, in order, from an index on.

    Returns how many were not there already.
    """
    changed = 0
    with opened(array) as fd:
        for index, program in enumerate(wanted, first):
            with opened(program) as program_fd:
                key = index.to_bytes(4, sys.byteorder)
                # what is written as a descriptor is read as an id
                there = libbpf.program_info(program_fd).id.to_bytes(4, sys.byteorder)
                if libbpf.map_lookup(fd, key, 4) != there:
                    libbpf.map_update(fd, key, program_fd.to_bytes(4, sys.byteorder))
                    changed += 1
    return changed


def _fork(request: Request) -> int:
    """Load a request in a process of its own and return its id; it ends with this one."""
    pid = os.fork()
    if pid:
        return pid
    _end_with_parent()
    try:
        load(request)
        status = 0
    except PyproxyError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201 - the parent's parent reads it
        status = error.exit_status
    os._exit(status)


def _end_with_parent() -> None:
    # a loader that outlives its agent would meet the next one's in the same directories
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Serve the requests from stdin, one beside the other; return the exit status."""
    _end_with_parent()
    requests = _from_json(sys.stdin.read())
    try:
        others = [_fork(request) for request in requests[1:]]
        load(requests[0])
    except PyproxyError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent reads it
        return error.exit_status
    failed = [status for pid in others if (status := os.waitpid(pid, 0)[1])]
    if failed:
        return os.waitstatus_to_exitcode(failed[0]) or 1
    # LLVM's destructors take 20 ms and free what the kernel frees anyway
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
