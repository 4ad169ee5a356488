"""What came into the log since the last cycle pinned its table: read from the table's narrow columns alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fresh:
    """Feedback on an alias's answers that no cycle has seen."""

    count: int = 0
    """Answers with such feedback."""
    oldest: float | None = None
    """Time of the first of it."""
    enough: float | None = None
    """Time at which there was enough of it."""
    newest: float | None = None
    recent_score: float | None = None
    """Mean score of the last `window` feedback entries, seen or not."""
    earlier_score: float | None = None
    """Mean score of as many before those."""


def fresh(table_uri: str, version: int, alias: str, since: float, enough: int, window: int) -> Fresh:
    """Look at what is newer than `since` at a version of the table. None of the bodies is read."""
    import numpy as np
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    columns = ["kind", "request_id", "time", "alias", "score"]
    table = DeltaTable(table_uri, version=version).to_pyarrow_dataset().to_table(columns=columns)
    of_alias = table.filter((pc.field("kind") == "record") & (pc.field("alias") == alias)).column("request_id")
    feedback = table.filter(pc.field("kind") == "feedback")
    feedback = feedback.filter(pc.is_in(feedback.column("request_id"), value_set=of_alias.combine_chunks()))
    feedback = feedback.sort_by("time")
    times, scores = feedback.column("time").to_numpy(), feedback.column("score").to_numpy()
    new = np.flatnonzero(times > since)
    # The place of each answer's first fresh feedback, in order of time.
    answers = np.unique(feedback.column("request_id").take(new).to_numpy(), return_index=True)[1]
    firsts = np.sort(answers)
    windows = len(scores) >= 2 * window
    return Fresh(
        count=len(firsts),
        enough=float(times[new[firsts[enough - 1]]]) if len(firsts) >= enough else None,
        oldest=float(times[new[0]]) if len(new) else None,
        newest=float(times[-1]) if len(times) else None,
        recent_score=float(scores[-window:].mean()) if windows else None,
        earlier_score=float(scores[-2 * window : -window].mean()) if windows else None,
    )
