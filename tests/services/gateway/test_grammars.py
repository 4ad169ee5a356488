"""What a caller may make the engine compile."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from services.gateway.bounds import Bounds
from services.gateway.errors import Refusal
from services.gateway.grammars import check

EMAIL = r"^[\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63}){1,8}$"


def strings(count: int, **bounds: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}, **bounds}


def everywhere(schema: Any) -> list[tuple[str, dict[str, Any]]]:
    """The same schema in every place of a request that takes one, and the parameter that a refusal names."""
    return [
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}),
        ("tools", {"tools": [{"type": "function", "name": "f", "parameters": schema}]}),
        (
            "response_format",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        ),
        ("text", {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}),
        ("structured_outputs.json", {"structured_outputs": {"json": schema}}),
        ("structured_outputs.json", {"structured_outputs": {"json": json.dumps(schema)}}),
    ]


def refused(body: dict[str, Any], bounds: Bounds | None = None) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        check(body, bounds or Bounds())
    assert refusal.value.status == 400
    return refusal.value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "[a-z]{0,100}" * 20},
        {"type": "string", "pattern": "([a-z]{0,30}){0,30}"},
        {"type": "string", "pattern": "[a-z]?" * 80},
        {"type": "object", "patternProperties": {"(a{1000}){1000}": {}}},
        {"type": "object", "propertyNames": {"pattern": "(a{1000}){1000}"}},
        {"items": [{"anyOf": [{"not": {"pattern": "(a{1000}){1000}"}}]}]},
        strings(300, maxProperties=150),
        strings(300, minProperties=150),
        {"properties": {f"p{n}": {"type": "string", "maxLength": 100 + n} for n in range(50)}},
        {"properties": {f"p{n}": {"type": "string", "pattern": "[a-z]{0,100}"} for n in range(50)}},
    ],
)
def test_what_costs_seconds_to_compile_is_refused_wherever_it_is(schema: dict[str, Any]) -> None:
    for param, body in everywhere(schema):
        refusal = refused(body)
        assert (refusal.param, refusal.code) == (param, "grammar_too_large")
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "parameters": strings(40, maxProperties=40)}}
        for n in range(64)
    ]
    assert refused({"tools": tools}).code == "grammar_too_large", "all of a request's schemas together"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": EMAIL},
        {"type": "string", "maxLength": 10**9, "minLength": 1},
        strings(1000),
        strings(1000, required=[f"p{n}" for n in range(1000)], additionalProperties=False),
        strings(40, maxProperties=40),
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "maxItems": 1000}, "minItems": 1000},
        {"enum": [f"value {n}" for n in range(2000)]},
        {"properties": {"pattern": {"type": "string", "maxLength": 10}, "minLength": {"type": "integer"}}},
        {"const": {"pattern": "(((((", "$ref": "http://example.com"}},
        {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(100)} | {"d100": {}}, "$ref": "#/$defs/d0"},
        {"properties": {f"p{n}": {"type": "string", "maxLength": 255} for n in range(300)}},
        True,
        {},
    ],
)
def test_what_is_cheap_passes_whatever_its_numbers(schema: Any) -> None:
    for _, body in everywhere(schema):
        check(body, Bounds())


def test_bytes_are_bounded_for_each_and_for_all_of_a_request() -> None:
    small = Bounds(grammar_bytes=1000)
    for param, body in everywhere({"description": "x" * 1000}):
        assert refused(body, small).param == param
    check({"tools": [{"function": {"parameters": {"description": "x" * 900}}}] * 8}, small)
    assert refused({"tools": [{"function": {"parameters": {"description": "x" * 900}}}] * 9}, small).param == "tools"
    assert refused({"structured_outputs": {"choice": ["x" * 500] * 3}}, small).param == "structured_outputs.choice"
    assert refused({"structured_outputs": {"regex": "x" * 1001}}, small).param == "structured_outputs.regex"


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("structured_outputs.grammar", {"structured_outputs": {"grammar": 'root ::= root root | "a"'}}),
        ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "{}"}}),
        ("structured_outputs.whitespace_pattern", {"structured_outputs": {"json": {}, "whitespace_pattern": "(a+)+"}}),
        ("structured_outputs._backend", {"structured_outputs": {"json": {}, "_backend": "outlines"}}),
        ("structured_outputs", {"structured_outputs": "json"}),
        ("structured_outputs.json", {"structured_outputs": {"json": "{"}}),
        ("structured_outputs.json", {"structured_outputs": {"json": "[" * 10_000}}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": "("}}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": "a\0b"}}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": ["a"]}}),
        ("response_format", {"response_format": {"type": "structural_tag", "format": {"type": "grammar"}}}),
        ("response_format", {"response_format": "json"}),
        ("text", {"text": {"format": {"type": "grammar"}}}),
        ("tools", {"tools": [{"type": "function", "function": "f"}]}),
    ],
)
def test_other_ways_to_constrain_are_refused_by_name(param: str, body: dict[str, Any]) -> None:
    assert refused(body).param == param


def test_schemas_elsewhere_are_not_fetched() -> None:
    for address in ("http://example.com/x.json", "file:///etc/passwd", "other.json"):
        for param, body in everywhere({"properties": {"a": {"$ref": address}}}):
            refusal = refused(body)
            assert refusal.param == param and "elsewhere" in refusal.message


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"$defs": {"a/~": {"$ref": "#/$defs/a~1~0"}}, "properties": {"x": {"$ref": "#/$defs/a~1~0"}}},
    ],
)
def test_references_that_only_lead_to_references_are_refused(schema: dict[str, Any]) -> None:
    for param, body in everywhere(schema):
        refusal = refused(body)
        assert refusal.param == param and "leads nowhere" in refusal.message


def test_a_web_of_references_is_not_followed_for_ever() -> None:
    every = [{"$ref": f"#/anyOf/{n}/anyOf/0"} for n in range(1000)]
    begun = time.process_time()
    refused(
        {"structured_outputs": {"json": {"anyOf": [{"anyOf": every} for _ in range(3)]}}}, Bounds(grammar_bytes=10**6)
    )
    assert time.process_time() - begun < 2


def test_a_pattern_that_is_no_expression_is_told_in_a_sentence() -> None:
    refusal = refused({"structured_outputs": {"json": {"pattern": "(a"}}})
    assert (
        refusal.message == "`structured_outputs.json` has a pattern that is no regular expression: `(` at 0 has no end"
    )


def test_where_the_settings_say_so_callers_may_send_whole_grammars() -> None:
    for name in ("grammar", "structural_tag"):
        check({"structured_outputs": {name: "x"}}, Bounds(caller_grammars=True))
        assert refused({"structured_outputs": {name: "x" * 70_000}}, Bounds(caller_grammars=True)).param
