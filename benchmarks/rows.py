"""Synthetic log rows as `collect` leaves them: requests to five tools, their answers, and what was thought of them.

Of a hundred, 12 are asked before word for word, 8 nearly so, 5 hold an address or a number, 10 got a low score and no
correction, 45 were corrected, and the rest is right as it was answered. Four requests make a session.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from cluster.records import Record
from pipelines.artifacts import Snapshot
from pipelines.collect import GROUP_ROWS

FILE_ROWS = 50_000
TOOLS = {
    "get_weather": ("city", "day"),
    "play": ("song", "artist"),
    "book_table": ("place", "guests", "hour"),
    "find_film": ("title", "cinema"),
    "rate_book": ("title", "stars"),
}
OFFERED = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Use this to {name.replace('_', ' ')} for the user, once it is clear what is meant.",
            "parameters": {
                "type": "object",
                "properties": {
                    each: {"type": "string", "description": f"The {each} as it was said."} for each in asked
                },
                "required": list(asked),
            },
        },
    }
    for name, asked in TOOLS.items()
]
WORDS = [f"{first}{last}" for first in ("al", "bor", "cam", "del", "fen", "gor", "hal", "lin") for last in
         ("ana", "berg", "dale", "ford", "holm", "mark", "stone", "ville", "wick", "worth")]  # fmt: skip


def write(folder: Path, rows: int, seed: int = 0) -> Snapshot:
    """A snapshot of so many rows."""
    folder.mkdir(parents=True)
    made = snapshot_rows(rows, random.Random(seed))
    for first in range(0, rows, FILE_ROWS):
        table = pa.Table.from_pylist([next(made) for _ in range(min(FILE_ROWS, rows - first))])
        parquet.write_table(table, folder / f"{first // FILE_ROWS:05}.parquet", row_group_size=GROUP_ROWS)
    return Snapshot(folder, table_version=0, rows=rows)


def snapshot_rows(count: int, dice: random.Random) -> Iterator[dict[str, str]]:
    common = Record(
        request_id="",
        time=0,
        principal="app",
        session="",
        endpoint="/v1/chat/completions",
        alias="assistant",
        version="assistant@0",
        tools=OFFERED,
        finish_reason="tool_calls",
        latency_s=0.1,
    ).model_dump()
    asked: list[tuple[str, dict[str, str], str]] = []
    for number in range(count):
        text, right, tool = request = _request(asked, dice)
        if len(asked) < 20_000:
            asked.append(request)
        else:
            asked[dice.randrange(len(asked))] = request
        body = {
            **common,
            "request_id": f"req-{number:08}",
            "time": 1_700_000_000.0 + number,
            "session": f"session-{number // 4}",
            "messages": [{"role": "system", "content": "You help."}, {"role": "user", "content": text}],
        }
        luck = dice.random()
        wrong = {**right, next(iter(right)): dice.choice(WORDS)}
        answered = wrong if luck < 0.55 else right
        corrected = _call(tool, right) if 0.1 <= luck < 0.55 else None
        feedback = [(0.0 if luck < 0.55 else 1.0, corrected, "user")]
        yield {
            "request_id": body["request_id"],
            "body": json.dumps({**body, "answer": _call(tool, answered)}),
            "feedback": json.dumps(feedback),
        }


def _request(asked: list[tuple[str, dict[str, str], str]], dice: random.Random) -> tuple[str, dict[str, str], str]:
    luck = dice.random()
    if asked and luck < 0.2:
        text, right, tool = dice.choice(asked)
        return (text if luck < 0.12 else text.upper() + "!!", right, tool)
    tool = dice.choice(list(TOOLS))
    right = {each: " ".join(dice.choices(WORDS, k=2)) for each in TOOLS[tool]}
    said = [f"{each} should be {value}" for each, value in right.items()]
    dice.shuffle(said)
    text = f"please {tool.replace('_', ' ')}, the {' and the '.join(said)}, {' '.join(dice.choices(WORDS, k=4))}"
    if luck > 0.95:
        text += (
            f", write to {dice.choice(WORDS)}@{dice.choice(WORDS)}.org or call +49 30 {dice.randrange(10**6, 10**7)}"
        )
    return text, right, tool


def _call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function", "function": function}]}
