"""Traffic: what users said and what they meant, read from files; the tools' schemas, derived from `train` alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Wish:
    """What one user said, and the call that would have served them."""

    text: str
    tool: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class Traffic:
    """`train` becomes live requests; `validate` is only measured on."""

    train: list[Wish]
    validate: list[Wish]

    @property
    def tools(self) -> list[dict[str, Any]]:
        return schemas(self.train)


def read(folder: Path) -> Traffic:
    """Read `train.jsonl` and `validate.jsonl`. Raises `ValueError` that names the file and the line that is broken."""
    return Traffic(wishes(folder / "train.jsonl"), wishes(folder / "validate.jsonl"))


def wishes(path: Path) -> list[Wish]:
    try:
        # Not `splitlines`: it also breaks at U+2028 and the like, which JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a traffic folder holds train.jsonl and validate.jsonl") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    found = [wish(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} is empty; give one JSON object with text, tool and arguments a line")
    return found


def wish(line: str, where: str) -> Wish:
    """One line of a traffic file; `where` is how an error calls it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    match row:
        case {"text": str(text), "tool": str(tool), "arguments": dict(arguments)} if text and tool:
            for name, value in arguments.items():
                if not isinstance(value, str):
                    raise ValueError(f"{where}: argument {name!r} is not a string; write every argument as a string")
            return Wish(text, tool, arguments)
    raise ValueError(f'{where}: expected {{"text": "...", "tool": "...", "arguments": {{"name": "value"}}}}')


def schemas(train: list[Wish]) -> list[dict[str, Any]]:
    """OpenAI tool schemas: every tool with every parameter that was seen with it.

    Tools come in alphabetical order, parameters in the order in which users say their values: training writes arguments
    in the schema's order, as does an engine that holds the model to a schema, and a model writes best what it can read
    from left to right. They are the same in every request, so that the engine's prefix cache holds the tools.
    """
    places: dict[str, dict[str, list[float]]] = {}
    for row in train:
        said = places.setdefault(row.tool, {})
        for name, value in row.arguments.items():
            at = row.text.find(value)
            said.setdefault(name, []).append(at / len(row.text) if at >= 0 else 1.0)
    found = []
    for tool, said in sorted(places.items()):
        properties = {name: {"type": "string"} for name in sorted(said, key=lambda name: (fmean(said[name]), name))}
        parameters = {"type": "object", "properties": properties, "additionalProperties": False}
        found.append({"type": "function", "function": {"name": tool, "parameters": parameters}})
    return found
