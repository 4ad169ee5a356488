"""How large expressions become, against automata that a test really builds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.automaton import TooLarge, steps

Node = tuple
"""("a",) | ("then", x, y) | ("or", x, y) | ("repeat", x, least, most or None)"""


def nodes() -> st.SearchStrategy[Node]:
    def more(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        bounds = st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3)))
        return st.one_of(
            st.tuples(st.just("then"), inner, inner),
            st.tuples(st.just("or"), inner, inner),
            st.tuples(st.just("repeat"), inner, bounds).map(
                lambda n: ("repeat", n[1], n[2][0], None if n[2][1] is None else n[2][0] + n[2][1])
            ),
        )

    return st.recursive(st.just(("a",)), more, max_leaves=8)


def written(node: Node) -> str:
    match node:
        case ("a",):
            return "[a-z]"
        case ("then", x, y):
            return f"{written(x)}{written(y)}"
        case ("or", x, y):
            return f"({written(x)}|{written(y)})"
        case ("repeat", x, least, most):
            return f"({written(x)}){{{least},{'' if most is None else most}}}"
    raise AssertionError(node)


class Built:
    """Glushkov's automaton, as sets: states that it may begin and end in, and pairs that follow each other."""

    def __init__(self) -> None:
        self.states = 0
        self.follow: set[tuple[int, int]] = set()

    def build(self, node: Node) -> tuple[set[int], set[int], bool]:
        match node:
            case ("a",):
                self.states += 1
                return {self.states}, {self.states}, False
            case ("then", x, y):
                return self.then(self.build(x), lambda: self.build(y))
            case ("or", x, y):
                (f1, l1, e1), (f2, l2, e2) = self.build(x), self.build(y)
                return f1 | f2, l1 | l2, e1 or e2
            case ("repeat", x, 0, None):
                first, last, _ = self.build(x)
                self.follow |= {(a, b) for a in last for b in first}
                return first, last, True
            case ("repeat", x, 1, None):
                first, last, empty = self.build(x)
                self.follow |= {(a, b) for a in last for b in first}
                return first, last, empty
            case ("repeat", x, least, None):
                return self.then(self.build(x), lambda: self.build(("repeat", x, least - 1, None)))
            case ("repeat", x, 0, 0):
                return set(), set(), True
            case ("repeat", x, 0, most):
                first, last, _ = self.then(self.build(x), lambda: self.build(("repeat", x, 0, most - 1)))
                return first, last, True
            case ("repeat", x, least, most):
                return self.then(self.build(x), lambda: self.build(("repeat", x, least - 1, most - 1)))
        raise AssertionError(node)

    def then(self, one, rest) -> tuple[set[int], set[int], bool]:
        (f1, l1, e1), (f2, l2, e2) = one, rest()
        self.follow |= {(a, b) for a in l1 for b in f2}
        return f1 | (f2 if e1 else set()), l2 | (l1 if e2 else set()), e1 and e2


@given(nodes())
def test_the_count_is_that_of_the_automaton_that_was_never_built(node: Node) -> None:
    built = Built()
    built.build(node)
    counted = steps(written(node), 10**6)
    if ",}" not in written(node):
        assert counted == built.states + len(built.follow)
    else:
        # A way back may be there already, as in `(a*)*` or `(a?a?)*`, and counts once more.
        assert counted >= built.states + len(built.follow)


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("", 0),
        ("abc", 1),  # characters that only follow each other cost as much as one
        ("abc+", 4),
        ("[a-z]{0,100}", 199),
        ("[a-z]{100}", 199),
        ("[a-z]?" * 80, 3240),
        (r"\d+\.\d*", 7),
        (r"[\]\\]*?x", 4),
        (r"[\p{Letter}][^\-a-z]\u{1F600}\x41", 7),
        ("(?:a)(?=b)(?<n>c)(?P<n>d)(?!e)", 9),
        ("^a$|^b$", 2),
        ("a}", 3),
        ("()*", 0),
        (r"^(\d{1,3}\.){3}\d{1,3}$", 35),
    ],
)
def test_forms_of_expressions(expression: str, count: int) -> None:
    assert steps(expression, 10**6) == count


@pytest.mark.parametrize(
    "expression", ["(a{1000}){1000}", "a{1000000000}", "((((a{9}){9}){9}){9}){9}", "(a|b?)*" * 100, "([a-z]?){0,200}"]
)
def test_what_unrolls_to_too_much_is_refused_without_being_unrolled(expression: str) -> None:
    with pytest.raises(TooLarge):
        steps(expression, 2000)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(", "no end"),
        ("(a|b", "no end"),
        ("[a", "no end"),
        ("[a\\]", "no end"),
        ("\\", "no end"),
        ("a)", "unmatched"),
        ("a]", "unmatched"),
        ("a{2,1}", "fewer"),
        ("(" * 40 + "a" + ")" * 40, "nested"),
        ("*a", "repeats nothing"),
        ("(|+)", "repeats nothing"),
        ("^*a", "repeats nothing"),
        ("a{,3}", "repeats nothing"),
        ("a{b}", "repeats nothing"),
        ("{2}a", "repeats nothing"),
        ("[]", "empty"),
        ("[^]", "empty"),
        ("[z-a]", "without an order"),
        (r"[a-\d]", "without an order"),
        (r"\bword", "boundary"),
        (r"(a)\1", "reference back"),
        (r"\p{L}", "property"),
        ("(?<!a)b", "not supported"),
        ("(?i:a)", "not supported"),
        ("(?>a)", "not supported"),
    ],
)
def test_what_the_engine_does_not_take_is_told_in_a_sentence(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steps(expression, 2000)
