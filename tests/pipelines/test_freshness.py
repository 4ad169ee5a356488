from __future__ import annotations

from pathlib import Path

from cluster.records import Entry, Step
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


def test_a_rewarded_run_of_the_alias_counts_once(tmp_path: Path) -> None:
    def step(run: str, number: int, event: str, **body: object) -> Step:
        made = {"request_id": f"{run}/{number}", "time": START + number, "principal": "app", "session": f"of-{run}"}
        return Step(**made, run=run, number=number, agent="shop", source="replica", event=event, body=body)

    entries: list[Entry] = [record(0, session="of-a"), record(1, session="of-b", alias="writer")]
    for run in ("a", "b"):
        entries += [step(run, 0, "start", task="t"), step(run, 1, "result", score=0.1)]
        entries += [step(run, 2, "reward", score=0.5, source="user"), step(run, 3, "reward", score=1, source="checker")]
    log = write(tmp_path, entries)
    version = log.compact().table_version
    assert version is not None
    found = fresh(log.table_uri, version, "assistant", since=START, enough=1, window=1)
    assert (found.count, found.oldest, found.newest) == (1, START + 2, START + 3)
    assert (found.earlier_score, found.recent_score) == (0.5, 1.0)
