"""What a policy sees of arguments does not depend on how a model happens to write a number."""

from __future__ import annotations

from typing import Any

import pytest

from services.agents.policy_values import record


def seen(value: Any, schema: dict[str, Any] | None = None, defs: dict[str, Any] | None = None) -> Any:
    whole = {"type": "object", "properties": {"x": schema or {}}, "$defs": defs or {}}
    return record({"x": value}, whole).get("x")


def decimal(digits: str) -> dict[str, Any]:
    return {"__extn": {"fn": "decimal", "arg": digits}}


OPTIONAL = {"anyOf": [{"type": "number"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("a", {"type": "string"}, "a"),
        (True, {"type": "boolean"}, True),
        (3, {"type": "integer"}, 3),
        (3.0, {"type": "integer"}, 3),
        (3, {"type": "number"}, decimal("3.0000")),
        (3.14159, {"type": "number"}, decimal("3.1416")),
        (3, OPTIONAL, decimal("3.0000")),
        (3, {"type": ["number", "null"]}, decimal("3.0000")),
        (3, {}, 3),
        (3.0, {}, decimal("3.0000")),
        (-0.0, {}, decimal("-0.0000")),
        ([1, None, 2], {"type": "array", "items": {"type": "number"}}, [decimal("1.0000"), decimal("2.0000")]),
        ({"y": 1, "z": None}, {"properties": {"y": {"type": "number"}}}, {"y": decimal("1.0000")}),
        (None, {}, None),
    ],
)
def test_table(value: Any, schema: dict[str, Any], expected: Any) -> None:
    assert seen(value, schema) == expected
    assert type(seen(value, schema)) is type(expected)


def test_definitions_are_looked_up_even_where_they_go_in_circles() -> None:
    tree = {"type": "object", "properties": {"size": {"type": "number"}, "next": {"$ref": "#/$defs/Tree"}}}
    found = seen({"size": 1, "next": {"size": 2}}, {"$ref": "#/$defs/Tree"}, {"Tree": tree})
    assert found == {"size": decimal("1.0000"), "next": {"size": decimal("2.0000")}}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1e15, float("inf"), float("nan")])
def test_number_that_cedar_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="x is a number too large"):
        seen(value)
