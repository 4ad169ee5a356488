"""From a tool to a tool of one scene (names and parameters drawn), and from that to requests with their arguments."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.seed.domains import EXTRA, Param, Tool
from pipelines.seed.grammar import expand
from pipelines.seed.values import MAKERS, make, one

OPENERS = (
    "please ",
    "can you ",
    "could you ",
    "hey, ",
    "ok, ",
    "i want you to ",
    "i need you to ",
    "would you ",
    "hi, ",
    "go ahead and ",
    "i'd like you to ",
    "now ",
    "let's ",
    "kindly ",
)
CLOSERS = (" please", " thanks", ", please", " for me", " now please", ", thank you", " if you can", " asap")

for _kind, _choices in EXTRA.items():
    MAKERS.setdefault(_kind, one(_choices))


@dataclass(frozen=True)
class Offer:
    """A tool as one scene offers it. `params` are (offered name, parameter) in schema order."""

    name: str
    params: tuple[tuple[str, Param], ...]
    tool: Tool

    def schema(self) -> dict[str, Any]:
        """OpenAI's form of a tool."""
        properties = {name: {"type": "string"} for name, _ in self.params}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": "",
                "parameters": {"type": "object", "properties": properties},
            },
        }


@dataclass(frozen=True)
class Request:
    """What a user says, and the call that answers it; arguments stand in schema order."""

    text: str
    tool: str
    arguments: dict[str, str]


def call(request: Request, call_id: str = "call_0") -> dict[str, Any]:
    """The assistant's message that makes a call."""
    function = {"name": request.tool, "arguments": request.arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def styled(name: str, style: str) -> str:
    parts = [p for p in name.replace(" ", "_").split("_") if p]
    if style == "snake" or (len(parts) == 1 and any(c.isupper() for c in name)):
        return name
    joined = "".join(p[:1].upper() + p[1:] for p in parts)
    return joined if style == "pascal" else joined[:1].lower() + joined[1:]


def offer(tool: Tool, style: str, rng: random.Random) -> Offer:
    """Draw names, drop some parameters (their words in a request then stay uncopied), shuffle the rest."""
    keep = [p for p in tool.params if rng.random() > 0.12] or list(tool.params[:1])
    rng.shuffle(keep)
    params: dict[str, Param] = {}
    for param in keep:
        name = styled(rng.choice(param.names), "snake" if style == "pascal" else style)
        params.setdefault(name, param)
    return Offer(styled(rng.choice(tool.names), style), tuple(params.items()), tool)


def typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text)) if text else 0
    return text[:at] + text[at + 1 :] if rng.random() < 0.5 else text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def ask(offered: Offer, rng: random.Random, make: Callable[[str, random.Random], str] = make) -> Request:
    """One request for a tool, with values from `make`. Every argument is a substring of the text."""
    pieces = expand(rng.choice(offered.tool.patterns), rng)
    kinds = {p.slot: p.kind for p in offered.tool.params}
    values: dict[str, str] = {}
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            literal = piece.replace("\1", "(").replace("\2", ")")
            text += typo(literal, rng) if rng.random() < 0.015 else literal
            continue
        slot = piece[1][0]
        # A slot that a phrasing names twice keeps its first value, as the first mention is what the argument copies.
        values[slot] = values.get(slot) or make(kinds[slot], rng)
        text += values[slot]
    first_is_literal = bool(pieces) and isinstance(pieces[0], str)
    text = text.strip(" ,;") if not any(v.strip(" ,;") != v for v in values.values()) else text.strip()
    if rng.random() < 0.22 and first_is_literal:
        text = rng.choice(OPENERS) + text
    elif first_is_literal and rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.1:
        text += rng.choice(CLOSERS)
    text += rng.choice(
        (
            "",
            "",
            "",
            "",
            ".",
            ".",
            "?" if text[:2].lower() in ("wh", "is", "ho", "wi") else "",
            "!" if rng.random() < 0.1 else "",
        )
    )
    if rng.random() < 0.15:
        text, values = text.lower(), {slot: value.lower() for slot, value in values.items()}
    if "  " in text and not any("  " in v for v in values.values()):
        text = " ".join(text.split())
    arguments = {name: values[p.slot] for name, p in offered.params if p.slot in values}
    return Request(text, offered.name, {k: v for k, v in arguments.items() if v and v in text})
