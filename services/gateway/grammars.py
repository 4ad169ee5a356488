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
from typing import Any, Literal

from services.gateway import automaton
from services.gateway.bounds import Bounds, require
from services.gateway.errors import Refusal

Kind = Literal["expression", "schema", "schemas", "text"]

_WHOLE_GRAMMARS = ("grammar", "structural_tag")
_CONSTRAINTS = frozenset(
    {"json", "regex", "choice", "json_object", "disable_any_whitespace", "disable_additional_properties"}
)
_FORMATS = frozenset({"text", "json_object", "json_schema"})
_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords whose values are no schemas."""
_LENGTH_STEPS = 200
"""A string's bounds cost in proportion up to here, and no more beyond: the engine then counts instead of unrolling."""
_LEADING = ("$ref", "anyOf", "oneOf", "allOf")
"""Keywords by which a schema is what other schemas are."""
_MOST_LOOKED_AT = 20_000
_MOST_TOTAL = 8
"""All grammars of a request together, in `most_grammar_bytes`: tools come by the dozen, and are small."""


def check(body: dict[str, Any], bounds: Bounds) -> None:
    """Raises `Refusal` for what would cost the engine too much."""
    size = steps = 0
    for param, kind, text in _grammars(body, bounds):
        size += len(text)
        require(len(text) <= bounds.grammar_bytes, param, f"is larger than {bounds.grammar_bytes:,} bytes; send less")
        require(
            size <= _MOST_TOTAL * bounds.grammar_bytes,
            param,
            f"and the request's other schemas are larger than {_MOST_TOTAL * bounds.grammar_bytes:,} bytes together",
        )
        try:
            steps += _steps(text, kind, bounds.grammar_steps)
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


def _grammars(body: dict[str, Any], bounds: Bounds) -> Iterator[tuple[str, Kind, str]]:
    """Everything to be compiled: the parameter that it is in, what it is, and its text."""
    yield from _of_tools(body.get("tools", []), bounds)
    if "response_format" in body:
        yield from _format("response_format", body["response_format"], "json_schema")
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") is not None:
        yield from _format("text", text["format"], None)
    if "structured_outputs" in body:
        yield from _structured(body["structured_outputs"], bounds)


def _of_tools(tools: list[dict[str, Any]], bounds: Bounds) -> Iterator[tuple[str, Kind, str]]:
    functions = [tool.get("function", tool) for tool in tools]
    require(all(isinstance(each, dict) for each in functions), "tools", "must be functions with a name and parameters")
    schemas = [each["parameters"] for each in functions if each.get("parameters") is not None]
    if schemas:
        together = json.dumps(schemas)
        if len(together) <= bounds.grammar_bytes:
            yield "tools", "schemas", together  # as one: it is asked about with every request, and remembered
        else:
            yield from (("tools", "schema", json.dumps(schema)) for schema in schemas)


def _format(param: str, given: Any, inside: str | None) -> Iterator[tuple[str, Kind, str]]:
    require(isinstance(given, dict), param, "must be an object")
    require(str(given.get("type")) in _FORMATS, param, "must be of the type `text`, `json_object` or `json_schema`")
    holder = given.get(inside) if inside else given
    if isinstance(holder, dict) and holder.get("schema") is not None:
        yield param, "schema", json.dumps(holder["schema"])


def _structured(given: Any, bounds: Bounds) -> Iterator[tuple[str, Kind, str]]:
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
        yield f"{param}.json", "schema", schema
    elif schema is not None:
        yield f"{param}.json", "schema", json.dumps(schema)
    expression = given.get("regex")
    if expression is not None:
        require(isinstance(expression, str), f"{param}.regex", "must be a string")
        require("\0" not in expression, f"{param}.regex", "must not contain NUL")
        yield f"{param}.regex", "expression", expression
    for name in ("choice", *_WHOLE_GRAMMARS):
        if given.get(name) is not None:
            yield f"{param}.{name}", "text", json.dumps(given[name])


def _refuse_circles(schema: Any, references: list[str]) -> None:
    """A reference that leads only to references allows nothing, and the engine would have no token to choose."""
    looked_at = 0
    for reference in references:
        seen, open_ = {reference}, [_at(schema, reference)]
        while open_:
            node = open_.pop()
            looked_at += 1
            if looked_at > _MOST_LOOKED_AT:
                raise automaton.TooLarge
            if not isinstance(node, dict) or not (ways := [key for key in _LEADING if key in node]):
                break
            for key in ways:
                if key != "$ref":
                    open_ += node[key] if isinstance(node[key], list) else []
                elif isinstance(node[key], str) and node[key] not in seen:
                    seen.add(node[key])
                    open_.append(_at(schema, node[key]))
        else:
            raise ValueError(f"has a reference that leads nowhere, `{reference}`")


def _at(schema: Any, reference: str) -> Any:
    """What a JSON pointer such as `#/$defs/a` names (RFC 6901); None if nothing."""
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict):
            schema = schema.get(name)
        elif isinstance(schema, list) and name.isdecimal() and int(name) < len(schema):
            schema = schema[int(name)]
        else:
            return None
    return schema


@lru_cache(maxsize=256)
def _steps(text: str, kind: Kind, most: int) -> int:
    """Of one grammar; remembered, because agents send the same tools again and again."""
    match kind:
        case "expression":
            return automaton.steps(text, most, alone=True)
        case "text":
            return 0
        case "schema":
            return _of_schemas([json.loads(text)], most)
        case "schemas":
            return _of_schemas(json.loads(text), most)


def _of_schemas(schemas: list[Any], most: int) -> int:
    total, lengths = 0, set()
    for schema in schemas:
        open_, references = [schema], []
        while open_:
            node = open_.pop()
            if isinstance(node, list):
                open_ += node
            elif isinstance(node, dict):
                total += _of_patterns(node, most - total) + _of_properties(node)
                bounds = (_bound(node, "minLength"), _bound(node, "maxLength"))
                if bounds not in lengths:  # equal ones are compiled once
                    lengths.add(bounds)
                    total += max(bounds)
                if isinstance(node.get("$ref"), str):
                    references.append(_here(node["$ref"]))
                open_ += [value for name, value in node.items() if name not in _DATA]
            if total > most:
                raise automaton.TooLarge
        _refuse_circles(schema, references)
    return total


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


def _here(reference: str) -> str:
    if not reference.startswith("#"):
        raise ValueError("refers to a schema elsewhere; put it under `$defs`, nothing is fetched for a caller")
    return reference
