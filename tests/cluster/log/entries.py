"""Entries to log."""

from __future__ import annotations

from cluster.log import Log
from cluster.records import Entry, Feedback, Record, Step


def record(number: int, time: float | None = None, text: str = "hello") -> Record:
    return Record(
        request_id=f"req-{number}",
        time=1_000_000.0 + number if time is None else time,
        principal="owner",
        session=f"session-{number % 7}",
        endpoint="/v1/chat/completions",
        alias="assistant",
        version="assistant@0",
        messages=[{"role": "user", "content": text}],
        answer={"role": "assistant", "content": "hi"},
        finish_reason="stop",
        latency_s=0.1,
    )


def feedback(number: int, score: float = 1.0, **rest: object) -> Feedback:
    return Feedback.model_validate(
        {"request_id": f"req-{number}", "time": 2_000_000.0 + number, "principal": "owner", "score": score, **rest}
    )


def everything(log: Log) -> list[Entry]:
    """Table and segments together."""
    return [*log.read(), *log.entries()]


def ids(entries: object) -> list[str]:
    return [entry.request_id for entry in entries]  # type: ignore[attr-defined]


def step(number: int, event: str = "model", run: str = "run-1", source: str = "agents-1", **body: object) -> Step:
    return Step(
        request_id=f"{run}/{number}",
        time=100.0 + number,
        principal="anna",
        session=f"thread of {run}",
        run=run,
        number=number,
        agent="clerk",
        source=source,
        event=event,
        body=body,
    )
