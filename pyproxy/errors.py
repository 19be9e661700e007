# SPDX-License-Identifier: Apache-2.0
"""The exceptions that cross package borders.

Every message is one sentence for an operator; `remedy` says what to do about it.
"""

from __future__ import annotations


class PyproxyError(Exception):
    """Base of all errors that an operator may see.

    `remedy` is the second half of the message: what to do. `exit_status` is what a command
    that ends because of this error returns (1 failed, 2 wrong usage, 3 unknown).
    """

    exit_status = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(PyproxyError):
    """A flag, a file or a setting is wrong."""

    exit_status = 2


class SourceError(PyproxyError):
    """Objects could not be read or decoded; what was read before stays in force."""


class KernelError(PyproxyError):
    """A system call that the datapath needs failed; `errno` is the kernel's number (0: none)."""

    def __init__(self, message: str, remedy: str = "", errno: int = 0) -> None:
        super().__init__(message, remedy)
        self.errno = errno


class MapFullError(KernelError):
    """A map has no room left; nothing that it held was lost."""


class NothingLoadedError(PyproxyError):
    """There are no pins under the bpffs root: nothing to show."""

    exit_status = 3
