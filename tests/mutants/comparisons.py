# SPDX-License-Identifier: Apache-2.0
"""What decides in a function: comparisons, `&&` and `||`, and values that are taken for truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from tests.mutants.tokens import Token, closing, opening

# an ordering is flipped, and its boundary is moved by one
FLIPS = {
    "==": ("!=",),
    "!=": ("==",),
    "<": (">=", "<="),
    "<=": (">", "<"),
    ">": ("<=", ">="),
    ">=": ("<", ">"),
    "&&": ("||",),
    "||": ("&&",),
}

_ASSIGNING = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
_LOGICAL = {"&&", "||"}
_COMPARING = set(FLIPS) - _LOGICAL
_CONDITIONED = {"if", "while", "for"}
_WORDS = {"return", "case", "else", "do"}
# what ends an operand, by how loosely its operator binds (C11 6.5)
_ENDS_CHOICE = {",", ";", "?", ":", *_ASSIGNING, *_WORDS}
_ENDS_LOGICAL = _ENDS_CHOICE | _LOGICAL
_ENDS_COMPARISON = _ENDS_LOGICAL | _COMPARING | {"&", "^", "|"}

_PREFIXES = {"!", "~", "-", "+", "*", "&", "++", "--", "sizeof"}

Span: TypeAlias = tuple[int, int]  # tokens from, to (not included)


class Change(NamedTuple):
    """One thing to change: the text from start to end (offsets) becomes `new`.

    `shown` is what is compared, `becomes` the operator instead, or NEGATED.
    """

    start: int
    end: int
    new: str
    shown: str
    becomes: str


NEGATED = "negated"


def changes(body: Sequence[Token], text: str) -> list[Change]:
    """Return all changes of a function's body, in the order of the text."""
    found = [*_flips(body, text), *_negations(body, text)]
    return sorted(found, key=lambda change: (change.start, change.end))


def _flips(body: Sequence[Token], text: str) -> Iterator[Change]:
    for index, token in enumerate(body):
        if token.text not in FLIPS:
            continue
        ends = _ENDS_LOGICAL if token.text in _LOGICAL else _ENDS_COMPARISON
        left = _written(body, text, (_left_end(body, index, ends), index))
        right = _written(body, text, (index + 1, _right_end(body, index + 1, ends)))
        shown = f"{left} {token.text} {right}"
        for new in FLIPS[token.text]:
            yield Change(token.start, token.end, new, shown, new)


def _negations(body: Sequence[Token], text: str) -> Iterator[Change]:
    spans = {_bare(body, span) for find in _TRUTHS for span in find(body)}
    for span in spans:
        if _is_bare_value(body, span):
            shown = _written(body, text, span)
            start, end = body[span[0]].start, body[span[1] - 1].end
            yield Change(start, end, f"!({text[start:end]})", shown, NEGATED)


def _tested(body: Sequence[Token]) -> Iterator[Span]:
    """Yield what stands in the brackets of if and while, and in the middle of for."""
    for index, token in enumerate(body):
        if token.text in {"if", "while"}:
            yield index + 2, closing(body, index + 1)
        elif token.text == "for":
            first = _right_end(body, index + 2, {";"}) + 1
            yield first, _right_end(body, first, {";"})


def _chosen_by(body: Sequence[Token]) -> Iterator[Span]:
    """Yield what stands before each `?`."""
    for index, token in enumerate(body):
        if token.text == "?":
            yield _left_end(body, index, _ENDS_CHOICE), index


def _joined(body: Sequence[Token]) -> Iterator[Span]:
    """Yield both sides of each `&&` and `||`."""
    for index, token in enumerate(body):
        if token.text in _LOGICAL:
            yield _left_end(body, index, _ENDS_LOGICAL), index
            yield index + 1, _right_end(body, index + 1, _ENDS_LOGICAL)


def _negated(body: Sequence[Token]) -> Iterator[Span]:
    """Yield what each `!` negates."""
    for index, token in enumerate(body):
        if token.text == "!":
            yield index + 1, _operand_end(body, index + 1)


_TRUTHS: tuple[Callable[[Sequence[Token]], Iterator[Span]], ...] = (
    _tested,
    _chosen_by,
    _joined,
    _negated,
)


def _left_end(body: Sequence[Token], index: int, ends: set[str]) -> int:
    """Return where the operand begins that ends before index."""
    while index > 0:
        text = body[index - 1].text
        if text in ends or text in {"(", "[", "{", "}"}:
            return index
        index = opening(body, index - 1) if text in {")", "]"} else index - 1
        if text == ")" and index and body[index - 1].text in _CONDITIONED:
            # a statement without braces after its condition: `if (a) b && c();`
            return closing(body, index) + 1
    return index


def _right_end(body: Sequence[Token], index: int, ends: set[str]) -> int:
    """Return where the operand ends that begins at index."""
    while index < len(body):
        text = body[index].text
        if text in ends or text in {")", "]", "}"}:
            return index
        index = closing(body, index) + 1 if text in {"(", "[", "{"} else index + 1
    return index


def _operand_end(body: Sequence[Token], index: int) -> int:
    """Return where the operand of a prefix ends that begins at index (C11 6.5.3)."""
    while body[index].text in _PREFIXES or _is_cast(body, index):
        index = closing(body, index) + 1 if body[index].text == "(" else index + 1
    index = closing(body, index) + 1 if body[index].text == "(" else index + 1
    while index < len(body) and body[index].text in {"(", "[", ".", "->", "++", "--"}:
        if body[index].text in {"(", "["}:
            index = closing(body, index) + 1
        else:
            index += 2 if body[index].text in {".", "->"} else 1
    return index


def _is_cast(body: Sequence[Token], index: int) -> bool:
    """Say whether brackets hold a type: words and stars only, and an operand follows."""
    if body[index].text != "(":
        return False
    end = closing(body, index)
    inside = body[index + 1 : end]
    following = body[end + 1] if end + 1 < len(body) else None
    return (
        bool(inside)
        and all(token.kind == "word" or token.text == "*" for token in inside)
        and following is not None
        and (following.kind in {"word", "number"} or following.text in {"(", "*", "&"})
    )


def _bare(body: Sequence[Token], span: Span) -> Span:
    """Return a span without the brackets around it."""
    first, end = span
    while end - first > 1 and body[first].text == "(" and closing(body, first) == end - 1:
        first, end = first + 1, end - 1
    return first, end


def _is_bare_value(body: Sequence[Token], span: Span) -> bool:
    """Say whether a span is taken for truth as it is: what decides in others stands deeper."""
    first, end = span
    if first == end or (body[first].text == "!" and _operand_end(body, first) == end):
        return False
    index = first
    while index < end:
        text = body[index].text
        if text in FLIPS or text == "?":
            return False
        index = closing(body, index) + 1 if text in {"(", "[", "{"} else index + 1
    return True


def _written(body: Sequence[Token], text: str, span: Span) -> str:
    """Return a span as it is written, without comments and with single spaces."""
    parts: list[str] = []
    for index in range(*span):
        token = body[index]
        if parts and text[body[index - 1].end : token.start]:
            parts.append(" ")
        parts.append(token.text)
    return "".join(parts)
