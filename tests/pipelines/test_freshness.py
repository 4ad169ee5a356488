from __future__ import annotations

from pathlib import Path

from cluster.records import Entry
from pipelines.freshness import Fresh, fresh
from tests.pipelines.logs import START, feedback, record, write


def test_only_feedback_on_the_aliass_answers_since_then_counts(tmp_path: Path) -> None:
    entries: list[Entry] = [record(number, alias="writer" if number == 3 else "assistant") for number in range(6)]
    entries += [feedback(number) for number in range(5)]
    entries += [feedback(4, source="judge", time=START + 9), feedback(77)]
    log = write(tmp_path, entries)
    version = log.compact().table_version
    assert version is not None
    found = fresh(log.table_uri, version, "assistant", since=START + 1.5, enough=2, window=10)
    assert (found.count, found.oldest, found.enough, found.newest) == (2, START + 2.5, START + 4.5, START + 9)
    assert found.recent_score is None
    assert fresh(log.table_uri, version, "nobody", since=0, enough=2, window=10) == Fresh()


def test_the_live_score_is_compared_with_the_one_before(tmp_path: Path) -> None:
    entries: list[Entry] = [record(number) for number in range(30)]
    entries += [feedback(number, score) for number, score in enumerate([0.0] * 10 + [1.0] * 10 + [0.5] * 10)]
    log = write(tmp_path, entries)
    version = log.compact().table_version
    assert version is not None
    found = fresh(log.table_uri, version, "assistant", since=START + 1000, enough=2, window=10)
    assert (found.count, found.earlier_score, found.recent_score) == (0, 1.0, 0.5)
