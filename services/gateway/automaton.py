"""How large the automaton of a regular expression becomes, from its text: counted, never built.

The count is that of Glushkov's construction (Russian Mathematical Surveys 16:5, 1961): a state for each class of
characters that the expression names, and a step from each state to each that may follow. Repeats count as what they
unroll to, `(...){2,3}` as two copies and one that may be missing. States and steps are what compiling pays for: eighty
`[a-z]?` in a row have 3,240 of them, `[a-z]{0,100}` has 199.

Expressions are read as xgrammar 0.2.8 reads them. What it cannot compile (`\\b`, `(a)\\1`, `(?<!a)`, `a{,3}`) is told
here, in a sentence: the engine would find out too late for anything but an internal error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MOST_NESTED = 32
"""Groups inside of groups."""
MOST_REPEATS = 128
"""Of one repeat: from 129 on xgrammar 0.2.8 fails on a check of its own, whatever is repeated."""

_PLAIN = re.compile(r"[^\\\[\](){}|*+?^$.]+")
_CLASS = re.compile(r"\[(\^?)((?:[^\]\\]|\\.)*)\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u\{[^}]*\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|c[A-Za-z]|.)", re.DOTALL)
_RANGE = re.compile(rf"({_ESCAPE.pattern}|[^\\])(?:-({_ESCAPE.pattern}|[^\\]))?", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?:[:=!]|P?<[A-Za-z_]\w*>))?")
_REPEAT = re.compile(r"(?:([*+?])|\{(\d+)(,?)(\d*)\})[?+]?")
_NO_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("123456789k", "a reference back"),
    **dict.fromkeys("pP", "a property outside of a class"),
}


class TooLarge(Exception):
    """More steps than allowed, or more repeats than the engine can compile."""


@dataclass(frozen=True)
class _Part:
    """Of an automaton: how many states it may begin and end in, and its states and steps."""

    first: int = 0
    last: int = 0
    steps: int = 0
    empty: bool = True
    """Whether it matches nothing at all, too."""


_NOTHING, _ANCHOR, _ONE = _Part(), _Part(), _Part(1, 1, 1, False)


def steps(expression: str, most: int, alone: bool = False) -> int:
    """Raises `TooLarge` beyond `most`, and `ValueError` with a sentence for what the engine does not take.

    `alone`: it is not the pattern of a JSON string.
    """
    reader = _Reader(expression, most, alone)
    found = reader.alternatives(0)
    if reader.at < len(expression):
        raise ValueError(f"unmatched `)` at {reader.at}")
    return found.steps


class _Reader:
    """Recursive descent; the recursion is as deep as groups are."""

    def __init__(self, text: str, most: int, alone: bool) -> None:
        self._text, self._most, self._alone, self.at = text, most, alone, 0
        self._atoms = 0

    def alternatives(self, depth: int) -> _Part:
        found = self._sequence(depth)
        while self._text.startswith("|", self.at):
            self.at += 1
            found = self._either(found, self._sequence(depth))
        return found

    def _sequence(self, depth: int) -> _Part:
        found = _NOTHING
        while self.at < len(self._text) and self._text[self.at] not in "|)":
            found = self._then(found, self._repeated(self._atom(depth)))
        return found

    def _atom(self, depth: int) -> _Part:
        self._atoms += 1
        if self._atoms > self._most:  # anchors and empty groups have no steps, and take time to read
            raise TooLarge
        match self._text[self.at]:
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case "^" | "$":
                self.at += 1
                return _ANCHOR
            case "*" | "+" | "?" | "{":
                raise ValueError(f"`{self._text[self.at]}` at {self.at} repeats nothing; write it as a class, `[{{]`")
            case "]":
                raise ValueError(f"unmatched `]` at {self.at}")
            case "." | "}":
                self.at += 1
                return _ONE
        plain = _PLAIN.match(self._text, self.at)
        assert plain
        end = plain.end()
        if end - self.at > 1 and end < len(self._text) and self._text[end] in "*+?{":
            end -= 1  # a repeat is about the last character only
        self.at = end
        return _ONE

    def _group(self, depth: int) -> _Part:
        if depth == MOST_NESTED:
            raise ValueError(f"groups are nested more than {MOST_NESTED} deep")
        begun, opening = self.at, _GROUP.match(self._text, self.at)
        assert opening
        self.at = opening.end()
        if self._text.startswith("?", self.at):
            raise ValueError(f"the group at {begun} is of a kind that is not supported")
        found = self.alternatives(depth + 1)
        if not self._text.startswith(")", self.at):
            raise ValueError(f"`(` at {begun} has no end")
        self.at += 1
        return found

    def _class(self) -> _Part:
        found = _CLASS.match(self._text, self.at)
        if found is None:
            raise ValueError(f"`[` at {self.at} has no end")
        if not found[2]:
            raise ValueError(f"the class at {self.at} is empty")
        if self._alone and re.search(r"\\[pP]", found[2]):
            raise ValueError(f"the class at {self.at} has a property, which is not supported here")
        for low, high in _RANGE.findall(found[2]):
            if high and ((len(high) > 1 and high[1] in "dDwWsS") or (len(low) == len(high) == 1 and low > high)):
                raise ValueError(f"the class at {self.at} has a range without an order, `{low}-{high}`")
        self.at = found.end()
        return _ONE

    def _escape(self) -> _Part:
        found = _ESCAPE.match(self._text, self.at)
        if found is None:
            raise ValueError(f"`\\` at {self.at} has no end")
        if unsupported := _NO_ESCAPES.get(found[0][1]):
            raise ValueError(f"`{found[0]}` at {self.at} is {unsupported}, which is not supported")
        self.at = found.end()
        return _ONE

    def _repeated(self, part: _Part) -> _Part:
        while found := _REPEAT.match(self._text, self.at):
            if part is _ANCHOR:
                raise ValueError(f"`{found[0]}` at {self.at} repeats nothing")
            sign, low, comma, high = found.groups()
            self.at = found.end()
            least = {"*": 0, "?": 0, "+": 1}[sign] if sign else int(low)
            most = {"*": None, "?": 1, "+": None}[sign] if sign else int(high) if high else None if comma else least
            if max(least, most or 0) > MOST_REPEATS:
                raise TooLarge
            part = self._times(part, least, most)
        return part

    def _times(self, part: _Part, least: int, most: int | None) -> _Part:
        if most is not None and most < least:
            raise ValueError(f"{{{least},{most}}} asks for fewer than it needs")
        if part.first == 0:
            return _NOTHING
        if most is None:
            looped = replace(part, steps=part.steps + part.last * part.first)
            tail, copies = (looped, least - 1) if least else (replace(looped, empty=True), 0)
        else:
            tail, copies = _NOTHING, least
            for _ in range(most - least):  # x{0,3} is (x(x(x)?)?)?
                tail = replace(self._then(part, tail), empty=True)
        for _ in range(copies):
            tail = self._then(part, tail)
        return self._checked(tail)

    def _then(self, one: _Part, two: _Part) -> _Part:
        first = one.first + (two.first if one.empty else 0)
        last = two.last + (one.last if two.empty else 0)
        return self._checked(_Part(first, last, one.steps + two.steps + one.last * two.first, one.empty and two.empty))

    def _either(self, one: _Part, two: _Part) -> _Part:
        return self._checked(
            _Part(one.first + two.first, one.last + two.last, one.steps + two.steps, one.empty or two.empty)
        )

    def _checked(self, part: _Part) -> _Part:
        if part.steps > self._most:
            raise TooLarge
        return part
