# SPDX-License-Identifier: Apache-2.0
"""Which changes a function's body has."""

from __future__ import annotations

import pytest

from tests.mutants.comparisons import NEGATED, changes
from tests.mutants.tokens import tokens

NOT = NEGATED

CASES = {
    # every operator
    "return a == b;": [("a == b", "!=")],
    "return a != b;": [("a != b", "==")],
    "x = a < b;": [("a < b", ">="), ("a < b", "<=")],
    "x = a <= b;": [("a <= b", ">"), ("a <= b", "<")],
    "x = a > b;": [("a > b", "<="), ("a > b", ">=")],
    "x = a >= b;": [("a >= b", "<"), ("a >= b", ">")],
    # values that are taken for truth
    "if (a) b();": [("a", NOT)],
    "if (!a) b();": [("a", NOT)],
    "if (!!a) b();": [("a", NOT)],
    "if (((a))) b();": [("a", NOT)],
    "while (a->b[c < d]) e();": [
        ("a->b[c < d]", NOT),
        ("c < d", ">="),
        ("c < d", "<="),
    ],
    "do a(); while (b);": [("b", NOT)],
    "for (i = 0; i < N; i++) a();": [("i < N", ">="), ("i < N", "<=")],
    "for (i = 0; a(b, c); i++) d();": [("a(b, c)", NOT)],
    "for (;;) a();": [],
    "return a ? b : c;": [("a", NOT)],
    "x = a & b ? c : d;": [("a & b", NOT)],
    "return a(b ? c : d, e);": [("b", NOT)],
    "return !a->b(c).d[e] + f;": [("a->b(c).d[e]", NOT)],
    "return !(a & b);": [("a & b", NOT)],
    "return !(__u32)a;": [("(__u32)a", NOT)],
    "return !*a++ & b;": [("*a++", NOT)],
    "return !(a == b);": [("a == b", "!=")],
    "if (a = b()) c();": [("a = b()", NOT)],
    "if (a(b) && (c | d)) e();": [
        ("a(b)", NOT),
        ("a(b) && (c | d)", "||"),
        ("c | d", NOT),
    ],
    # joined ones
    "return a && !b;": [("a", NOT), ("a && !b", "||"), ("b", NOT)],
    "return a == b || c < d;": [
        ("a == b", "!="),
        ("a == b || c < d", "&&"),
        ("c < d", ">="),
        ("c < d", "<="),
    ],
    "return a && b && c;": [
        ("a", NOT),
        ("a && b", "||"),
        ("b", NOT),
        ("b && c", "||"),
        ("c", NOT),
    ],
    "return (a || b) && c;": [
        ("a", NOT),
        ("a || b", "&&"),
        ("(a || b) && c", "||"),
        ("b", NOT),
        ("c", NOT),
    ],
    # operands end where the operator binds looser
    "x |= a & b == c;": [("b == c", "!=")],
    "f(a, b << 1 < c - 2, d);": [("b << 1 < c - 2", ">="), ("b << 1 < c - 2", "<=")],
    "if (x) y[a == 1] = 0;": [("x", NOT), ("a == 1", "!=")],
    "if (a) b() && c();": [("a", NOT), ("b()", NOT), ("b() && c()", "||"), ("c()", NOT)],
    # written once and plainly, whatever the layout
    "if (a /* why */ ==\n\t    b) c();": [("a == b", "!=")],
    # none
    "x = a + b; y(&x, -x); switch (a) { case 1: break; default: return ~b; }": [],
}


@pytest.mark.parametrize("text", CASES)
def test_what_decides_is_found(text: str) -> None:
    """Each comparison, junction and value taken for truth is changed in each of its ways."""
    found = changes(tokens(text), text)
    assert sorted((change.shown, change.becomes) for change in found) == sorted(CASES[text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return a<b;", ["return a>=b;", "return a<=b;"]),
        ("if (!(a & b)) c();", ["if (!(!(a & b))) c();"]),
        ("if (!a) b();", ["if (!!(a)) b();"]),
        ("return a ? b : c;", ["return !(a) ? b : c;"]),
        ("x = a->b && c;", ["x = !(a->b) && c;", "x = a->b || c;", "x = a->b && !(c);"]),
    ],
)
def test_a_change_is_made_in_place(text: str, expected: list[str]) -> None:
    """Only the operator is replaced, or the value put into a negation."""
    assert [
        text[: change.start] + change.new + text[change.end :]
        for change in changes(tokens(text), text)
    ] == expected
