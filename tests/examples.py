"""What many tests need one of, and none of them is about."""

from __future__ import annotations

from typing import Any

from cluster.records import Verdict


def verdict(**changes: Any) -> Verdict:
    """The gate's, on assistant@1: accepted, unless `changes` say otherwise."""
    given = {
        "accepted": True,
        "reasons": ["better by a margin"],
        "candidate": "assistant@1",
        "champion": "assistant@0",
        "rows": 40,
        "candidate_score": 0.9,
        "champion_score": 0.5,
        "gain": 0.4,
        "gain_low": 0.3,
        "well_formed": 1.0,
    }
    return Verdict(**{**given, **changes})
