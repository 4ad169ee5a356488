"""Mention replacement: requests that nobody made, out of those that somebody did.

A call that copies its arguments from the request ("weather in Rome", city: Rome) is as right with another row's value
for the same argument of the same tool in both places. Trained on another mixture in each pass, a small model learns
where a value stands and what it belongs to, instead of the rows by heart. The method is that of Dai and Adel, "An
Analysis of Simple Data Augmentation for Named Entity Recognition", 2020 (https://arxiv.org/abs/2010.11683), 3.

The values are those of the training rows: nothing of the holdout comes in.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pipelines.artifacts import Row

EACH = 0.5
"""Chance of a value to be replaced in a row that is chosen."""


@dataclass(frozen=True)
class Mention:
    """A value of a call as it stands in the request: `text[start:end]`."""

    start: int
    end: int
    call: int
    tool: str
    argument: str


class Mentions:
    """The values of all rows from the log, by tool and argument; values of replayed rows are not mixed in."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._values: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in rows:
            for _, tool, argument, value in _values(row):
                self._values[tool, argument].append(value)

    def mixture(self, rows: Sequence[Row], share: float, seed: str) -> list[Row]:
        """The rows, a share of them varied; always the same for the same seed."""
        dice = random.Random(seed)
        return [self.vary(row, dice) if dice.random() < share else row for row in rows]

    def vary(self, row: Row, dice: random.Random) -> Row:
        """The row with some values replaced, in its last request and in its calls; itself if it mentions none."""
        found = _mentions(row)
        if not found:
            return row
        *before, request, answer = row.messages
        text = request["content"]
        calls = [json.loads(call["function"]["arguments"]) for call in answer["tool_calls"]]
        for mention in reversed(found):  # from the end: places before a replaced one stay where they are
            if dice.random() < EACH:
                value = dice.choice(self._values[mention.tool, mention.argument])
                text = text[: mention.start] + value + text[mention.end :]
                calls[mention.call][mention.argument] = value
        said = [
            {**call, "function": {**call["function"], "arguments": json.dumps(arguments, ensure_ascii=False)}}
            for call, arguments in zip(answer["tool_calls"], calls, strict=True)
        ]
        return replace(row, messages=[*before, {**request, "content": text}, {**answer, "tool_calls": said}])


def _values(row: Row) -> Iterator[tuple[int, str, str, str]]:
    """(place of the call, tool, argument, value) of each text that a row from the log hands to a tool."""
    if row.origin != "log":
        return
    for place, call in enumerate(row.messages[-1].get("tool_calls") or []):
        arguments: dict[str, Any] = json.loads(call["function"]["arguments"])
        for argument, value in arguments.items():
            if isinstance(value, str) and value:
                yield place, call["function"]["name"], argument, value


def _mentions(row: Row) -> list[Mention]:
    """Where the last request says a value, once and as whole words, and no turn before it does; in order of place.

    None at all where two of them overlap: which words belong to which is then not known.
    """
    *before, request, _ = [None, *row.messages]
    if not request or request.get("role") != "user" or not isinstance(request.get("content"), str):
        return []
    earlier = json.dumps(before, ensure_ascii=False)
    found = []
    for call, tool, argument, value in _values(row):
        spots = list(re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", request["content"]))
        written = json.dumps(value, ensure_ascii=False)[1:-1]
        within = json.dumps(written, ensure_ascii=False)[1:-1]  # in the arguments of a call, which are JSON themselves
        if len(spots) == 1 and written not in earlier and within not in earlier:
            found.append(Mention(*spots[0].span(), call, tool, argument))
    found.sort(key=lambda mention: mention.start)
    overlap = any(one.end > other.start for one, other in pairwise(found))
    return [] if overlap else found
