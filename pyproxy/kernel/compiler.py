# SPDX-License-Identifier: Apache-2.0
"""bcc, and nothing else: the one file that imports it, run only in the short-lived loader.

bcc keeps 120-190 MB of LLVM in its process for good and has no types.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyproxy.errors import KernelError
from pyproxy.kernel.programs import Program


class Object:
    """A compiled object: its maps exist (pinned ones were opened), its programs can be loaded."""

    def __init__(self, text: str, cflags: tuple[str, ...], headers: Path) -> None:
        # stub headers of ours, so that bcc never looks for the kernel's (bpf/include)
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)
        try:
            import bcc  # noqa: PLC0415 - LLVM is mapped by the import
        except ImportError as error:
            raise KernelError(
                "bcc's Python module is missing", "install the package python3-bpfcc"
            ) from error
        try:
            self._bpf: Any = bcc.BPF(text=text, cflags=list(cflags))
        except Exception as error:  # bcc raises bare Exceptions
            raise KernelError(
                f"the programs do not compile: {error}",
                "'pyproxy check' says what this node lacks",
            ) from error

    def load(self, program: Program) -> int:
        """Load a program into the kernel and return its descriptor."""
        arguments = {"attach_type": program.attach_type} if program.attach_type else {}
        try:
            return int(self._bpf.load_func(program.name, program.type, **arguments).fd)
        except Exception as error:  # bcc raises bare Exceptions
            raise KernelError(
                f"the kernel does not load {program.name}: {error}",
                "'pyproxy check' says what this kernel lacks",
            ) from error

    def map_shape(self, name: str) -> tuple[int, int, int, int]:
        """Return a map's descriptor, and its key size, value size and entries as compiled."""
        import bcc  # noqa: PLC0415 - as above

        module, library, wanted = self._bpf.module, bcc.lib, name.encode()
        return (
            int(library.bpf_table_fd(module, wanted)),
            int(library.bpf_table_key_size(module, wanted)),
            int(library.bpf_table_leaf_size(module, wanted)),
            int(library.bpf_table_max_entries(module, wanted)),
        )
