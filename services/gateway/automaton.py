"""How large the automaton of a regular expression becomes, from its text: counted, never built.

The count is that of Glushkov's construction (Russian Mathematical Surveys 16:5, 1961): a state for each class of
characters that the expression names, and a step from each state to each that may follow. Repeats count as what they
unroll to, `(...){2,3}` as two copies and one that may be missing. States and steps are what compiling pays for: eighty
`[a-z]?` in a row have 3,240 of them, `[a-z]{0,100}` has 199.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MOST_NESTED = 32
"""Groups inside of groups."""

_PLAIN = re.compile(r"[^\\\[\](){}|*+?^$.]+")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[pPuxN]\{[^}]*\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|c[A-Za-z]|.)", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|P?<\w+>))?")
_REPEAT = re.compile(r"(?:([*+?])|\{(\d*)(,?)(\d*)\})[?+]?")


class TooLarge(Exception):
    """More steps than allowed."""


@dataclass(frozen=True)
class _Part:
    """Of an automaton: how many states it may begin and end in, and the steps between its states."""

    first: int = 0
    last: int = 0
    steps: int = 0
    empty: bool = True
    """Whether it matches nothing at all, too."""


_NOTHING, _ONE = _Part(), _Part(1, 1, 1, False)


def steps(expression: str, most: int) -> int:
    """Raises `TooLarge` beyond `most`, and `ValueError` with a sentence for what is no regular expression."""
    reader = _Reader(expression, most)
    found = reader.alternatives(0)
    if reader.at < len(expression):
        raise ValueError(f"unmatched `)` at {reader.at}")
    return found.steps


class _Reader:
    """Recursive descent; the recursion is as deep as groups are."""

    def __init__(self, text: str, most: int) -> None:
        self._text, self._most, self.at = text, most, 0

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
        character = self._text[self.at]
        if character == "(":
            return self._group(depth)
        if character in "^$":
            self.at += 1
            return _NOTHING
        pattern = {"[": _CLASS, "\\": _ESCAPE}.get(character, _PLAIN)
        match = pattern.match(self._text, self.at)
        if match is None and character in "[\\":
            raise ValueError(f"`{character}` at {self.at} has no end")
        end = match.end() if match else self.at + 1
        if pattern is _PLAIN and end - self.at > 1 and end < len(self._text) and self._text[end] in "*+?{":
            end -= 1  # a quantifier is about the last character only
        self.at = end
        return _ONE

    def _group(self, depth: int) -> _Part:
        if depth == MOST_NESTED:
            raise ValueError(f"groups are nested more than {MOST_NESTED} deep")
        begun, match = self.at, _GROUP.match(self._text, self.at)
        assert match
        self.at = match.end()
        found = self.alternatives(depth + 1)
        if not self._text.startswith(")", self.at):
            raise ValueError(f"`(` at {begun} has no end")
        self.at += 1
        return found

    def _repeated(self, part: _Part) -> _Part:
        while match := _REPEAT.match(self._text, self.at):
            sign, low, comma, high = match.groups()
            if sign is None and not (low or high):
                break  # braces that are no quantifier are characters
            self.at = match.end()
            least = {"*": 0, "?": 0, "+": 1}.get(sign) if sign else int(low or 0)
            most = {"*": None, "?": 1, "+": None}[sign] if sign else int(high) if high else None if comma else least
            assert least is not None
            part = self._times(part, least, most)
        return part

    def _times(self, part: _Part, least: int, most: int | None) -> _Part:
        if part.first == 0:
            return _NOTHING
        if most is not None and most < least:
            raise ValueError(f"{{{least},{most}}} asks for fewer than it needs")
        if most is None:
            looped = _Part(part.first, part.last, part.steps + part.last * part.first, part.empty)
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
