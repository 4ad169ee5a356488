"""What a caller may make the engine compile: schemas of answers and of tools, patterns, expressions, choices.

vLLM turns each into an automaton (xgrammar 0.2.8), partly in the replica's event loop, partly in the engine, and small
requests can ask for a lot. Compiled for the seed model's 2,048 tokens on two cores, a larger vocabulary takes longer:

    {"pattern": "[a-z]{0,100}" twenty times}      273 bytes   more than 15 s
    {"pattern": "([a-z]{0,30}){0,30}"}             52 bytes   more than 15 s
    {"pattern": "[a-z]?" eighty times}            513 bytes   5.7 s
    300 optional properties, "maxProperties": 150   8 KiB     more than 15 s (100 and 50: 0.8 s)
    50 strings, each with a "maxLength" of its own   2 KiB    12 s (one: 0.2 s, whatever its length)
    10,000 values or properties                    0.5 MiB    4 s and more than 15 s (64 KiB: 0.1 s and 0.3 s)
    schemas in schemas, 200 deep                     8 KiB    3.2 s, half of it in the event loop (32 deep: 0.05 s)

What is cheap, whatever its numbers, is not bounded: `minItems` and `maxItems` of 1,000 in three levels took 0.2 s,
1,000 properties 0.16 s, references that double twenty times 0.02 s.

An expression (`regex`) that stands alone would be run differently, by a parser whose work for each token grows with
the tokens before: `(a+)+b` took 33 ms a token after 700, `(\\w+\\s?)*b` 69 ms after 370, and all of the batch waits for
it. The engine gets it as `root ::= Regex("...")`, which compiles to the same automaton as a pattern: 0.01 ms. For a
grammar of the caller's own there is no such way (`root ::= root root | "a"`: 92 ms after 400), so none is taken unless
the settings say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from services.gateway import automaton
from services.gateway.bounds import Bounds, require
from services.gateway.errors import Refusal

_WHOLE_GRAMMARS = ("grammar", "structural_tag")
_CONSTRAINTS = frozenset(
    {"json", "regex", "choice", "json_object", "disable_any_whitespace", "disable_additional_properties"}
)
_FORMATS = frozenset({"text", "json_object", "json_schema"})
_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords whose values are no schemas."""
_LENGTH_STEPS = 200
"""A string's bounds cost in proportion up to here, and no more beyond: the engine then counts instead of unrolling."""
_MOST_TOTAL = 8
"""All grammars of a request together, in `most_grammar_bytes`: tools come by the dozen, and are small."""


def check(body: dict[str, Any], bounds: Bounds) -> None:
    """Raises `Refusal` for what would cost the engine too much."""
    size = steps = 0
    for param, expression, text in _grammars(body, bounds):
        size += len(text)
        require(len(text) <= bounds.grammar_bytes, param, f"is larger than {bounds.grammar_bytes:,} bytes; send less")
        require(
            size <= _MOST_TOTAL * bounds.grammar_bytes,
            param,
            f"and the request's other schemas are larger than {_MOST_TOTAL * bounds.grammar_bytes:,} bytes together",
        )
        try:
            steps += _steps(text, expression, bounds.grammar_steps)
            if steps > bounds.grammar_steps:
                raise automaton.TooLarge
        except automaton.TooLarge:
            message = (
                f"`{param}` asks for too much: fewer or smaller repeats, and bounds on lengths and properties, please"
            )
            raise Refusal(400, message, code="grammar_too_large", param=param) from None
        except ValueError as error:
            raise Refusal(400, f"`{param}` {error}", code="invalid_value", param=param) from None


def as_automaton(given: dict[str, Any]) -> dict[str, Any]:
    """`structured_outputs` as the engine gets it: an expression as a pattern, see above."""
    if given.get("regex") is None:
        return given
    rest = {name: value for name, value in given.items() if name != "regex"}
    return {**rest, "grammar": f"root ::= Regex({json.dumps(given['regex'], ensure_ascii=False)})"}


def _grammars(body: dict[str, Any], bounds: Bounds) -> Iterator[tuple[str, bool, str]]:
    """Everything to be compiled: the parameter that it is in, whether it is an expression, and its text."""
    yield from _of_tools(body.get("tools", []), bounds)
    if "response_format" in body:
        yield from _format("response_format", body["response_format"], "json_schema")
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") is not None:
        yield from _format("text", text["format"], None)
    if "structured_outputs" in body:
        yield from _structured(body["structured_outputs"], bounds)


def _of_tools(tools: list[dict[str, Any]], bounds: Bounds) -> Iterator[tuple[str, bool, str]]:
    functions = [tool.get("function", tool) for tool in tools]
    require(all(isinstance(each, dict) for each in functions), "tools", "must be functions with a name and parameters")
    schemas = [each["parameters"] for each in functions if each.get("parameters") is not None]
    if schemas:
        together = json.dumps(schemas)
        if len(together) <= bounds.grammar_bytes:
            yield "tools", False, together  # as one: it is asked about with every request, and remembered
        else:
            yield from (("tools", False, json.dumps(schema)) for schema in schemas)


def _format(param: str, given: Any, inside: str | None) -> Iterator[tuple[str, bool, str]]:
    require(isinstance(given, dict), param, "must be an object")
    require(str(given.get("type")) in _FORMATS, param, "must be of the type `text`, `json_object` or `json_schema`")
    holder = given.get(inside) if inside else given
    if isinstance(holder, dict) and holder.get("schema") is not None:
        yield param, False, json.dumps(holder["schema"])


def _structured(given: Any, bounds: Bounds) -> Iterator[tuple[str, bool, str]]:
    param = "structured_outputs"
    require(isinstance(given, dict), param, "must be an object")
    known = _CONSTRAINTS.union(_WHOLE_GRAMMARS if bounds.caller_grammars else ())
    for name in given:
        require(name in known, f"{param}.{name}", f"is not taken; use {', '.join(sorted(known))}")
    schema = given.get("json")
    if isinstance(schema, str):
        try:
            json.loads(schema)
        except (ValueError, RecursionError):
            raise Refusal(400, f"`{param}.json` is not JSON", code="invalid_value", param=f"{param}.json") from None
        yield f"{param}.json", False, schema
    elif schema is not None:
        yield f"{param}.json", False, json.dumps(schema)
    expression = given.get("regex")
    if expression is not None:
        require(isinstance(expression, str), f"{param}.regex", "must be a string")
        require("\0" not in expression, f"{param}.regex", "must not contain NUL")
        yield f"{param}.regex", True, expression
    for name in ("choice", *_WHOLE_GRAMMARS):
        if given.get(name) is not None:
            yield f"{param}.{name}", False, json.dumps([given[name]])


@lru_cache(maxsize=256)
def _steps(text: str, expression: bool, most: int) -> int:
    """Of one grammar; remembered, because agents send the same tools again and again."""
    if expression:
        return automaton.steps(text, most)
    total, lengths = 0, set()
    open_ = [json.loads(text)]
    while open_:
        node = open_.pop()
        if isinstance(node, dict):
            total += _of_patterns(node, most - total) + _of_properties(node)
            lengths.add((_bound(node, "minLength"), _bound(node, "maxLength")))
            _refuse_elsewhere(node)
            open_ += [value for name, value in node.items() if name not in _DATA]
        elif isinstance(node, list):
            open_ += node
        if total + sum(max(pair) for pair in lengths) > most:
            raise automaton.TooLarge
    return total + sum(max(pair) for pair in lengths)


def _of_patterns(node: dict[str, Any], most: int) -> int:
    expressions = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
    if isinstance(node.get("patternProperties"), dict):
        expressions += node["patternProperties"]
    total = 0
    for expression in expressions:
        try:
            total += automaton.steps(expression, most - total)
        except ValueError as error:
            raise ValueError(f"has a pattern that is no regular expression: {error}") from None
    return total


def _of_properties(node: dict[str, Any]) -> int:
    """Bounds on the number of properties multiply with the properties that there are."""
    if not isinstance(node.get("properties"), dict):
        return 0
    count = len(node["properties"])
    asked = max(_number(node, "minProperties"), _number(node, "maxProperties"))
    return count * count * min(asked, count) // 1000


def _bound(node: dict[str, Any], name: str) -> int:
    return min(_number(node, name), _LENGTH_STEPS)


def _number(node: dict[str, Any], name: str) -> int:
    value = node.get(name)
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else 0


def _refuse_elsewhere(node: dict[str, Any]) -> None:
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise ValueError("refers to a schema elsewhere; put it under `$defs`, nothing is fetched for a caller")
