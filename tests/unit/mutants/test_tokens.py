# SPDX-License-Identifier: Apache-2.0
"""C as tokens and functions."""

from __future__ import annotations

import pytest

from pyproxy.errors import ConfigError
from tests.mutants.tokens import functions, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<=b", "a <= b"),
        ("a<<=b>>c", "a <<= b >> c"),
        ("a->b!=c.d", "a -> b != c . d"),
        ("a&&&b", "a && & b"),
        ("0x1f<1e+5", "0x1f < 1e+5"),
        ("a /* b == c */ < d // e != f\n", "a < d"),
        ("a /* one\n == two */ b", "a b"),
        ('"a == \\"b" < \'"\'', '"a == \\"b" < \'"\''),
        ("#if A == 4\nb\n#endif", "b"),
        ("#define A(x) \\\n\t((x) == 1)\nb", "b"),
        ("  #  if A < 4 /* over\ntwo lines */ && B\nb", "b"),
        ("a \\\n == b", "a == b"),
    ],
    ids=str,
)
def test_tokens_are_what_runs(text: str, expected: str) -> None:
    """The longest operators are taken; comments, preprocessor lines and joins are none."""
    assert " ".join(token.text for token in tokens(text)) == expected


def test_tokens_say_where_they_stand() -> None:
    """The ranges of tokens cut them out of the text."""
    text = "if (a /* == */ <= b)\n\treturn c->d;\n"
    found = tokens(text)
    assert [text[token.start : token.end] for token in found] == [token.text for token in found]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb `c`", r"x\.c:2 is no C"),
        ("a\n'b", r"x\.c:2 is no C"),
        ("a\n/* b == c", r"x\.c:2 is no C"),
        ("f(a]\n)", r"x\.c:1 closes what is not open"),
        ("f()\n}", r"x\.c:2 closes what is not open"),
        ("{ f(a;\n", r"x\.c:2 lacks \)"),
    ],
    ids=str,
)
def test_what_is_no_c_is_named_with_its_line(text: str, words: str) -> None:
    """A text that cannot be read is refused with file and line, never read in part."""
    with pytest.raises(ConfigError, match=words):
        list(functions(tokens(text, "x.c")))


def test_functions_are_told_from_other_braces() -> None:
    """Types, tables of values, map macros and declarations are no functions."""
    text = """
        struct a { int b; union { int c; } d; };
        enum e { F = 1 };
        BPF_TABLE("hash", struct a, struct a, table, 1);
        int prototype(int a);
        static struct a value = { .b = (1) };
        static __attribute__((always_inline)) int first(struct a *a)
        { if (a) { return 1; } return 2; }
        int second(void) __attribute__((noinline))
        { for (;;) { } }
    """
    found = {function.name: function.body for function in functions(tokens(text))}
    assert list(found) == ["first", "second"]
    assert " ".join(t.text for t in found["first"]) == "if ( a ) { return 1 ; } return 2 ;"


def test_static_assertions_are_left_out() -> None:
    """What the compiler decides is no part of a function."""
    text = 'int f(void) { _Static_assert(sizeof(a) == 4, "a (b"); return a; }'
    (function,) = functions(tokens(text))
    assert [token.text for token in function.body] == [";", "return", "a", ";"]
