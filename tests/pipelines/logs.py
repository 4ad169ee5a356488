"""Logs to learn from, as an application would have left them: made through the log's own writer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.log import Log, LogSettings
from cluster.records import Entry, Feedback, Message, Record

START = 1_700_000_000.0

CITIES = ["Oslo", "Lima", "Cairo", "Quito", "Hanoi", "Perth", "Turin", "Kyoto", "Accra", "Dakar", "Minsk", "Porto"]
SONGS = ["Hurt", "Fire", "Alive", "Jolene", "Creep", "Toxic", "Halo", "Royals", "Clocks", "Zombie", "Africa", "Roar"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "string"}}},
    },
}
MUSIC = {
    "type": "function",
    "function": {"name": "play", "parameters": {"type": "object", "properties": {"song": {"type": "string"}}}},
}
TOOLS = [WEATHER, MUSIC]


def call(tool: str, **arguments: Any) -> Message:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function", "function": function}]}


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def record(number: int, text: str = "hello", **changes: Any) -> Record:
    made: dict[str, Any] = {
        "request_id": f"req-{number:05}",
        "time": START + number,
        "principal": "app",
        "session": f"session-{number}",
        "endpoint": "/v1/chat/completions",
        "alias": "assistant",
        "version": "assistant@0",
        "arm": "champion",
        "messages": [{"role": "user", "content": text}],
        "tools": TOOLS,
        "answer": call("play", song="wrong"),
        "finish_reason": "tool_calls",
        "latency_s": 0.1,
    }
    return Record(**{**made, **changes})


def feedback(number: int, score: float = 0.0, **changes: Any) -> Feedback:
    made: dict[str, Any] = {"request_id": f"req-{number:05}", "time": START + number + 0.5, "principal": "app"}
    return Feedback(**{**made, "score": score, **changes})


def corrected(count: int, first: int = 0) -> list[Entry]:
    """`count` requests, half for each tool, all of them answered wrongly and corrected."""
    entries: list[Entry] = []
    for number in range(first, first + count):
        place, other = CITIES[number % 12], SONGS[number // 12 % 12]
        if number % 2:
            text, right = f"how is {other} street in {place} {number}", call("get_weather", day=str(number), city=place)
        else:
            text, right = f"{place}! {number} times {other} please", call("play", song=f"{other} {number}")
        entries += [record(number, text), feedback(number, correction=right)]
    return entries


def write(state: Path, entries: Iterable[Entry]) -> Log:
    log = Log(state / "log", LogSettings())
    writer = log.writer("test")

    async def append() -> None:
        await asyncio.gather(*(writer.append(entry) for entry in entries))

    asyncio.run(append())
    writer.close()
    return log
