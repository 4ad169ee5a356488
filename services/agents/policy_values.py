"""A call's arguments as a Cedar record. Pure.

    JSON                  Cedar
    string, boolean       String, Bool
    integer               Long (64 bits)
    number                decimal (4 digits after the point, rounded), for 3 as for 3.5: what the schema declares
                          counts, and where it declares nothing, how the number is written
    array                 Set: neither order nor how often
    object                record
    null                  not there: ask `has`

What Cedar cannot hold (larger numbers, the names that its own JSON reserves) raises `ValueError`: the call is denied.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

LONGEST = 2**63
MOST = Decimal(2**63 - 1) / 10**4
"""Of a decimal."""
RESERVED = frozenset({"__entity", "__extn", "__expr"})
"""Keys by which Cedar's JSON says what is no JSON: a model could pass an argument off as an entity."""

DEEPEST = 64
"""Nested levels."""

Schema = dict[str, Any]
Path = tuple[str, ...]


def record(arguments: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """The arguments as Cedar's JSON. Raises `ValueError` with one sentence."""
    return _object(arguments, schema, schema, ())


def _object(value: dict[str, Any], schema: Schema, root: Schema, where: Path) -> dict[str, Any]:
    if reserved := RESERVED & value.keys():
        raise ValueError(f"an argument cannot be called {', '.join(sorted(reserved))}")
    inside = {name: part for each in _branches(schema, root) for name, part in each.get("properties", {}).items()}
    return {
        name: _value(part, inside.get(name, {}), root, (*where, name))
        for name, part in value.items()
        if part is not None
    }


def _value(value: Any, schema: Schema, root: Schema, where: Path) -> Any:
    if len(where) > DEEPEST:
        raise ValueError(f"{where[0]} is nested deeper than {DEEPEST} levels")
    match value:
        case bool() | str():
            return value
        case int() | float():
            return _number(value, schema, root, where)
        case list():
            schemas = (each.get("items") for each in _branches(schema, root))
            items: Schema = next((found for found in schemas if isinstance(found, dict)), {})
            return [_value(each, items, root, (*where, "*")) for each in value if each is not None]
        case dict():
            return _object(value, schema, root, where)
    raise ValueError(f"{'.'.join(where)} is no JSON")


def _number(value: int | float, schema: Schema, root: Schema, where: Path) -> Any:
    declared = {kind for each in _branches(schema, root) for kind in _kinds(each)} & {"integer", "number"}
    whole = isinstance(value, int) or value.is_integer()
    if declared == {"number"} or not whole or (isinstance(value, float) and declared != {"integer"}):
        exact = Decimal(str(value))
        if not exact.is_finite() or abs(exact) > MOST:
            raise ValueError(f"{'.'.join(where)} is a number too large for a policy to weigh")
        return {"__extn": {"fn": "decimal", "arg": f"{exact:.4f}"}}
    if not -LONGEST <= value < LONGEST:
        raise ValueError(f"{'.'.join(where)} is a number too large for a policy to weigh")
    return int(value)


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _branches(schema: Schema, root: Schema, depth: int = 8) -> Iterator[Schema]:
    """A schema and all that it may stand for."""
    yield schema
    if depth:
        target = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        others = [root.get("$defs", {}).get(target, {})] if target else []
        for each in others + [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, [])]:
            yield from _branches(each, root, depth - 1)
