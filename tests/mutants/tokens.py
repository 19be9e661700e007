# SPDX-License-Identifier: Apache-2.0
"""C as tokens and functions: as much of it as finding comparisons needs.

Comments, preprocessor lines and static assertions are left out: nothing in them runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyproxy.errors import ConfigError

# Longest first, so that `<<=` is not taken for `<` (C11 6.4). Line continuations join a
# preprocessor line with the next (5.1.1.2).
_TOKEN = re.compile(
    r"""
      (?P<skip>    \s+ | //[^\n]* | /\*.*?\*/ | \\\n )
    | (?P<line>    \#(?: \\\n | /\*.*?\*/ | [^\n] )* )
    | (?P<text>    "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    | (?P<word>    [A-Za-z_]\w* )
    | (?P<number>  \.?\d(?:[eEpP][+-]|[\w.])* )
    | (?P<sign>    <<= | >>= | \.\.\. | -> | \+\+ | -- | << | >> | <= | >= | == | != | && | \|\|
                   | [-+*/%&|^]= | [-+*%&|^~!<>=?:;,.(){}\[\]] | /(?!\*) )
    """,
    re.VERBOSE | re.DOTALL,
)

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_ATTRIBUTE = "__attribute__"
_ASSERTIONS = {"_Static_assert", "static_assert"}


class Token(NamedTuple):
    """One token and where it stands in the text: the half-open range start, end."""

    text: str
    kind: str  # word, number, text (strings and characters) or sign
    start: int
    end: int


class Function(NamedTuple):
    """A function's body: its tokens between the braces."""

    name: str
    body: tuple[Token, ...]


def tokens(text: str, name: str = "the text") -> list[Token]:
    """Return the tokens of a C file; raises ConfigError, with `name`, for what is no C."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _mistake(text, position, name, "is no C that scripts/mutate can read")
        if match.lastgroup not in {"skip", "line"}:
            found.append(Token(match[0], match.lastgroup, match.start(), match.end()))
        position = match.end()
    _check_brackets(found, text, name)
    return found


def _check_brackets(found: Sequence[Token], text: str, name: str) -> None:
    awaited: list[str] = []
    for token in found:
        if token.text in _CLOSING:
            awaited.append(_CLOSING[token.text])
        elif token.text in _CLOSING.values() and (not awaited or awaited.pop() != token.text):
            raise _mistake(text, token.start, name, "closes what is not open")
    if awaited:
        raise _mistake(text, len(text), name, f"lacks {awaited[-1]}")


def _mistake(text: str, position: int, name: str, what: str) -> ConfigError:
    line = text.count("\n", 0, position) + 1
    return ConfigError(f"{name}:{line} {what}", "mend the file, or tests/mutants/tokens.py")


def closing(found: Sequence[Token], opening: int) -> int:
    """Return the index of the bracket that closes the one at index `opening`."""
    depth = 0
    for index in range(opening, len(found)):
        depth += (found[index].text in _CLOSING) - (found[index].text in _CLOSING.values())
        if not depth:
            return index
    raise IndexError(opening)


def opening(found: Sequence[Token], end: int) -> int:
    """Return the index of the bracket that the one at index `end` closes."""
    depth = 0
    for index in range(end, -1, -1):
        depth += (found[index].text in _CLOSING.values()) - (found[index].text in _CLOSING)
        if not depth:
            return index
    raise IndexError(end)


def functions(found: Sequence[Token]) -> Iterator[Function]:
    """Yield the functions of a file in order: a name, its parameters, a body in braces."""
    index, name = 0, ""
    while index < len(found):
        token = found[index]
        if token.text == "(":
            before = found[index - 1]
            name = before.text if before.kind == "word" and before.text != _ATTRIBUTE else name
            index = closing(found, index)
        elif token.text == "{":
            end = closing(found, index)
            if name:
                yield Function(name, tuple(_without_assertions(found[index + 1 : end])))
            index, name = end, ""
        elif token.text in {";", "="}:
            # a declaration, or a variable with a value
            name = ""
        index += 1


def _without_assertions(body: Sequence[Token]) -> Iterator[Token]:
    index = 0
    while index < len(body):
        if body[index].text in _ASSERTIONS:
            index = closing(body, index + 1) + 1
        else:
            yield body[index]
            index += 1
