"""What came into the log since the last cycle pinned its table: read from the table's narrow columns alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fresh:
    """Feedback on an alias's answers, and rewards of its agents' runs, that no cycle has seen."""

    count: int = 0
    """Answers with such feedback, and runs with such rewards."""
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
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    columns = ["kind", "request_id", "time", "session", "alias", "score"]
    table = DeltaTable(table_uri, version=version).to_pyarrow_dataset().to_table(columns=columns)
    of_alias = table.filter((pc.field("kind") == "record") & (pc.field("alias") == alias))
    feedback = table.filter(pc.field("kind") == "feedback")
    answers_of = of_alias.column("request_id").combine_chunks()
    feedback = feedback.filter(pc.is_in(feedback.column("request_id"), value_set=answers_of))
    # A run's model answered in its session; `RUN/NUMBER` is the id of each of its steps.
    rewards = table.filter((pc.field("kind") == "step") & pc.is_valid(pc.field("score")))
    rewards = rewards.filter(pc.is_in(rewards.column("session"), value_set=of_alias.column("session").combine_chunks()))
    names = pc.replace_substring_regex(rewards.column("request_id"), "/[^/]*$", "")
    rewards = rewards.set_column(rewards.column_names.index("request_id"), "request_id", names)
    feedback = pa.concat_tables([feedback, rewards.cast(feedback.schema)]).sort_by("time")
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
