"""What users tell about the answers they got: as complete and as true as `--feedback` says. Pure, and seeded."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Self

from demo.traffic import Wish


@dataclass(frozen=True)
class Dilution:
    """How much of the truth users tell."""

    rate: float = 1.0
    """Share of the answers that get feedback."""
    score_only: float = 0.0
    """Share of the feedback that is a score without a correction."""
    wrong: float = 0.0
    """Share of the feedback that is wrong: the wrong score, or somebody else's correction."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`RATE[,SCORE_ONLY_SHARE[,WRONG_SHARE]]`, each between 0 and 1."""
        try:
            shares = [float(share) for share in text.split(",")]
        except ValueError:
            shares = []
        if not 1 <= len(shares) <= 3 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"--feedback {text!r}: give RATE,SCORE_ONLY_SHARE,WRONG_SHARE, each from 0 to 1, such as 0.2,0.5,0.05"
            )
        return cls(*shares)


@dataclass(frozen=True)
class Opinion:
    """One user's feedback on one answer."""

    score: float
    correction: dict[str, Any] | None
    wrong: bool


def opinion(wish: Wish, right: bool, other: Wish, dilution: Dilution, dice: random.Random) -> Opinion | None:
    """What the user says of an answer that was `right` or not. A wrong correction is the call of `other`."""
    # All dice are thrown every time, so that the same requests get feedback whatever the answers were.
    speaks, score_only, wrong, slip = (dice.random() for _ in range(4))
    if speaks >= dilution.rate:
        return None
    terse = score_only < dilution.score_only
    if wrong >= dilution.wrong:
        if right:
            return Opinion(1.0, None, False)
        return Opinion(0.0, None if terse else message(wish), False)
    if right or (slip < 0.5 and not terse):
        return Opinion(0.0, None if terse else message(other), True)
    return Opinion(1.0, None, True)


def message(wish: Wish) -> dict[str, Any]:
    """The assistant's message that would have been right."""
    call = {"name": wish.tool, "arguments": json.dumps(wish.arguments, ensure_ascii=False)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": call}],
    }
