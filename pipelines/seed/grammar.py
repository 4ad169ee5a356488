"""Phrase patterns: one line of text that stands for many requests.

(a|b|)     one of these, the last may be empty
[ x]       x or nothing
<x;y;z>    all of these, in any order
{slot}     the value of a slot; the rest is literal text

>>> expand("[please ]play {song}< by {artist};[ on {service}]>", random.Random(0))
"""

from __future__ import annotations

import random
from functools import cache

Node = str | tuple[str, tuple]
PAIRS = {"(": (")", "|"), "[": ("]", ""), "<": (">", ";")}


def _parse(pattern: str, at: int, closing: str, separator: str) -> tuple[list[list[Node]], int]:
    """Branches of one group, each a list of nodes, and the index behind the closing sign."""
    branches: list[list[Node]] = [[]]
    text = ""
    while at < len(pattern):
        sign = pattern[at]
        if text and (sign in (closing, separator, "{") or sign in PAIRS):
            branches[-1].append(text)
            text = ""
        if sign == closing:
            return branches, at + 1
        if sign == separator:
            branches.append([])
            at += 1
        elif sign == "{":
            end = pattern.index("}", at)
            branches[-1].append(("{", (pattern[at + 1 : end],)))
            at = end + 1
        elif sign in PAIRS:
            inner, at = _parse(pattern, at + 1, *PAIRS[sign])
            branches[-1].append((sign, tuple(tuple(b) for b in inner)))
        else:
            text += sign
            at += 1
    assert not closing, f"no {closing} in {pattern!r}"
    if text:
        branches[-1].append(text)
    return branches, at


@cache
def parse(pattern: str) -> tuple[Node, ...]:
    return tuple(_parse(pattern, 0, "", "")[0][0])


def expand(nodes: str | tuple[Node, ...], rng: random.Random) -> list[Node]:
    """A flat list of literal strings and `("{", (slot,))`, chosen at random."""
    flat: list[Node] = []
    for node in parse(nodes) if isinstance(nodes, str) else nodes:
        if isinstance(node, str) or node[0] == "{":
            flat.append(node)
            continue
        sign, branches = node
        if sign == "(":
            flat += expand(rng.choice(branches), rng)
        elif sign == "[":
            if rng.random() < 0.5:
                flat += expand(branches[0], rng)
        else:
            for branch in rng.sample(branches, len(branches)):
                flat += expand(branch, rng)
    return flat


def slots(pattern: str) -> list[str]:
    """The slots that a pattern can fill, in the order of the text."""
    return [part.split("}")[0] for part in pattern.split("{")[1:]]
