"""How good is an answer? A scorer maps (row, answer) to a score in [0, 1] and says whether the answer is well-formed.

Named in the recipe: `tool_call`, `json`, `exact`, `judge` (any OpenAI-compatible model), `likelihood` of documents, or
`module:function` of one's own: a function of a `Row`, whose last message is the reference, and of the answer's message,
that returns a `Score` or a number; it may be `async`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.records import Message
from pipelines.artifacts import Row
from pipelines.recipe import JudgeSettings


@dataclass(frozen=True)
class Score:
    """What one answer is worth."""

    value: float
    """From 0 to 1."""
    well_formed: bool
    parts: dict[str, float] = field(default_factory=dict)
    """What the scorer also measured, each from 0 to 1; `evaluate` reports their means."""


Scorer = Callable[[Row, Message], Awaitable[Score]]


def find(name: str, judge: JudgeSettings | None = None) -> Scorer:
    """The scorer that a recipe names. Raises `ValueError` with the choices for a name that means nothing."""
    match name:
        case "tool_call":
            return _plain(tool_call)
        case "json":
            return _plain(json_answer)
        case "exact":
            return _plain(exact)
        case "likelihood":
            return _plain(likelihood)
        case "judge":
            return Judge(judge or JudgeSettings())
        case _ if ":" in name:
            return _plain(_load(name))
        case _:
            raise ValueError(
                f"no scorer is called {name!r}; take tool_call, json, exact, judge, likelihood or module:function"
            )


def tool_call(row: Row, answer: Message) -> Score:
    """The reference's tool calls, name and arguments. A wrong tool is worth 0, an exact answer 1.

    In between counts the share of fields that agree, the tool's name being one field and each argument another, so
    that progress shows before an answer is wholly right. `exact_match` and `tool_accuracy` count whole rows.
    """
    wanted, given = _calls(row.messages[-1]), _calls(answer)
    offered = {tool["function"]["name"] for tool in row.tools}
    well_formed = all(name in offered and arguments is not None for name, arguments in given)
    if not wanted and not given:
        same = _text(answer) == _text(row.messages[-1])
        value = (1 + same) / 2
        return Score(value, bool(_text(answer)), {"tool_accuracy": 1.0, "exact_match": float(same)})
    tools = [name for name, _ in wanted] == [name for name, _ in given]
    exact = wanted == given and well_formed
    value = _agreement(wanted, given) if tools else 0.0
    well_formed = well_formed and bool(given or _text(answer))
    return Score(value, well_formed, {"tool_accuracy": float(tools), "exact_match": float(exact)})


def json_answer(row: Row, answer: Message) -> Score:
    """A JSON document: the share of the top-level fields that agree with the reference's, or all or nothing."""
    wanted, given = _parse(_text(row.messages[-1])), _parse(_text(answer))
    if given is _BROKEN:
        return Score(0.0, False, {"exact_match": 0.0})
    same = normalise(wanted) == normalise(given)
    both_objects = isinstance(wanted, dict) and isinstance(given, dict)
    value = float(same) if same or not both_objects else _share(normalise(wanted), normalise(given))
    return Score(value, True, {"exact_match": float(same)})


def exact(row: Row, answer: Message) -> Score:
    """The reference's text, letter by letter; only white space may differ."""
    same = _text(answer) == _text(row.messages[-1])
    return Score(float(same), bool(_text(answer)), {"exact_match": float(same)})


def likelihood(row: Row, answer: Message) -> Score:
    """How likely a document's tokens are, each after those before it: their geometric mean, 1 over the perplexity."""
    return Score(math.exp(answer["mean_logprob"]), True)


class Judge:
    """Another model's opinion of the answer beside the reference, from any OpenAI-compatible server."""

    def __init__(self, settings: JudgeSettings) -> None:
        import openai

        if not settings.base_url or not settings.model:
            raise ValueError("the judge needs evaluation.judge.base_url and evaluation.judge.model in the recipe")
        key = os.environ.get(settings.key_variable)
        if key is None:
            raise ValueError(f"the judge's API key is missing: set {settings.key_variable} where the cycle runs")
        self._settings, self._model = settings, settings.model
        self._client = openai.AsyncOpenAI(base_url=settings.base_url, api_key=key, max_retries=5)

    async def __call__(self, row: Row, answer: Message) -> Score:
        """Raises `ValueError` if the judge's reply holds no score: a wrong judge must not pass for a bad answer."""
        if not _text(answer) and not answer.get("tool_calls"):
            return Score(0.0, False)
        case = {"conversation": row.messages[:-1], "reference": row.messages[-1], "answer": answer}
        reply = await self._client.chat.completions.create(
            model=self._model,
            messages=[
                {"role": "system", "content": self._settings.instructions},
                {"role": "user", "content": json.dumps(case, ensure_ascii=False)},
            ],
            temperature=0,
            max_completion_tokens=self._settings.max_tokens,
        )
        said = reply.choices[0].message.content or ""
        found = re.search(r'"score"\s*:\s*(\d*\.?\d+)', said) or re.fullmatch(r"\s*(\d*\.?\d+)\s*", said)
        if not found or not 0 <= float(found[1]) <= 1:
            raise ValueError(f'the judge answered {said[:80]!r}, not {{"score": a number from 0 to 1}}')
        return Score(float(found[1]), True)


def normalise(value: Any) -> Any:
    """JSON values that mean the same as equal ones: white space, Unicode form, 5 and 5.0, and null fields left out."""
    match value:
        case str():
            return " ".join(unicodedata.normalize("NFC", value).split())
        case dict():
            return {key: normalise(item) for key, item in value.items() if item is not None}
        case list():
            return [normalise(item) for item in value]
        case bool():
            return ("bool", value)  # Or True == 1 would hold.
        case _:
            return value


def _plain(function: Callable[[Row, Message], Any]) -> Scorer:
    async def score(row: Row, answer: Message) -> Score:
        result = function(row, answer)
        if inspect.isawaitable(result):
            result = await result
        given = result if isinstance(result, Score) else Score(float(result), True)
        if not (math.isfinite(given.value) and 0 <= given.value <= 1):
            name = getattr(function, "__name__", "scorer")
            raise ValueError(f"the scorer {name} gave {given.value}; a score lies between 0 and 1")
        return given

    return score


def _load(name: str) -> Callable[[Row, Message], Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"scorer {name}: {error}; give module:function of a module that Python finds") from error


def _calls(message: Message) -> list[tuple[str, Any]]:
    """Names and arguments of a message's tool calls, in a fixed order. No JSON object as arguments: None."""
    calls = [call["function"] for call in message.get("tool_calls") or []]
    pairs = [(call["name"], _arguments(call.get("arguments"))) for call in calls]
    return sorted(pairs, key=lambda pair: (pair[0], json.dumps(pair[1], sort_keys=True, default=str)))


def _arguments(given: Any) -> dict[str, Any] | None:
    parsed = _parse(given) if isinstance(given, str) else given
    return normalise(parsed) if isinstance(parsed, dict) else None


def _agreement(wanted: list[tuple[str, Any]], given: list[tuple[str, Any]]) -> float:
    agreed = fields = 0
    for (_, left), (_, right) in zip(wanted, given, strict=True):
        left, right = left or {}, right or {}
        agreed += 1 + sum(key in right and right[key] == value for key, value in left.items())
        fields += 1 + len(left.keys() | right.keys())
    return agreed / fields


def _share(left: dict[str, Any], right: dict[str, Any]) -> float:
    keys = left.keys() | right.keys()
    return sum(key in left and key in right and left[key] == right[key] for key in keys) / len(keys)


_BROKEN = object()


def _parse(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return _BROKEN


def _text(message: Message) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return normalise(content)
