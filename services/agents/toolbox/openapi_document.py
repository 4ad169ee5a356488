"""An OpenAPI 3 document as its operations: what a model may give, and where in a request it goes. Pure.

Schemas stay as they are, their references too: what `#/components/schemas/NAME` means comes along under `$defs`, so
that a schema may refer to itself. 3.0's own words (`nullable`, `exclusiveMinimum: true`) become JSON Schema's.
Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

logger = logging.getLogger(__name__)

METHODS = ("get", "head", "put", "delete", "post", "patch", "options")
BODY = "body"
"""The argument that is a request's JSON body."""
OURS = frozenset({"accept", "content-type", "authorization", "host", "idempotency-key", "content-length", "cookie"})
"""Header fields that no argument sets; the first three are the specification's own exceptions."""
_SCHEMAS = "#/components/schemas/"

Json = dict[str, Any]


class Unusable(ValueError):
    """Why an operation is no tool. One sentence."""


@dataclass(frozen=True)
class Parameter:
    """Where one argument goes."""

    argument: str
    name: str
    place: str
    """`path`, `query` or `header`."""
    explode: bool
    deep: bool
    """`name[key]=value`."""
    as_json: bool


@dataclass(frozen=True)
class Operation:
    """One of an API's operations."""

    id: str
    method: str
    path: str
    description: str
    parameters: tuple[Parameter, ...]
    has_body: bool
    schema: Json
    """Of the arguments."""


def operations(document: Json, kept_out: frozenset[str] = OURS) -> list[Operation]:
    """All that can be called with arguments and a JSON body; the others are named in the log. `kept_out` are header
    fields (lower case) that a model does not set. Raises `ValueError`, one sentence."""
    if not str(document.get("openapi", "")).startswith("3."):
        said = document.get("openapi") or document.get("swagger") or "nothing"
        raise ValueError(f"an OpenAPI document of version 3 is needed, and this one says {said}")
    found = []
    for path, item in document.get("paths", {}).items():
        item = _resolved(document, item)
        for method in METHODS:
            if method in item:
                try:
                    found.append(_operation(document, path, method, item, kept_out))
                except Unusable as why:
                    logger.warning("%s %s is no tool: %s", method.upper(), path, why)
    return found


def server(document: Json, origin: str | None) -> str | None:
    """Where the document says that its API is; relative to the document's own address."""
    servers = document.get("servers") or [{"url": "/"}]
    url = re.sub(r"\{(\w+)\}", lambda name: _default(servers[0], name[1]), str(servers[0].get("url", "/")))
    absolute = urljoin(origin or "", url)
    return absolute.rstrip("/") if absolute.startswith(("http://", "https://")) else None


def _default(server: Json, variable: str) -> str:
    return str(server.get("variables", {}).get(variable, {}).get("default", ""))


def _operation(document: Json, path: str, method: str, item: Json, kept_out: frozenset[str]) -> Operation:
    operation = item[method]
    described = {
        (each["name"], each["in"]): each
        for each in (_resolved(document, p) for p in [*item.get("parameters", []), *operation.get("parameters", [])])
    }
    names = [name for name, _ in described]
    parameters, properties, required = list[Parameter](), dict[str, Any](), list[str]()
    for (name, place), each in described.items():
        needed = bool(each.get("required"))
        if place == "cookie" or (place == "header" and name.lower() in kept_out):
            if needed and place == "cookie":
                raise Unusable(f"it needs the cookie {name}")
            continue
        argument = name if names.count(name) == 1 and name != BODY else f"{place}_{name}"
        parameters.append(_parameter(argument, name, place, each))
        properties[argument] = _described(each)
        required += [argument] if needed or place == "path" else []
    body = _resolved(document, operation.get("requestBody", {}))
    if body:
        properties[BODY] = _body(body)
        required += [BODY] if body.get("required") else []
    if missing := set(re.findall(r"\{([^}]+)\}", path)) - {each.name for each in parameters if each.place == "path"}:
        raise Unusable(f"its path has {', '.join(sorted(missing))}, and no parameter is called so")
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Operation(
        id=operation.get("operationId") or f"{method}{path}",
        method=method.upper(),
        path=path,
        description=_told(operation, item, f"{method.upper()} {path}"),
        parameters=tuple(parameters),
        has_body=bool(body),
        schema=_with_definitions(document, schema),
    )


def _parameter(argument: str, name: str, place: str, described: Json) -> Parameter:
    style = described.get("style", "form" if place == "query" else "simple")
    if style not in ("form", "simple", "deepObject"):
        raise Unusable(f"its parameter {name} is written in the style {style}")
    return Parameter(
        argument, name, place, described.get("explode", style == "form"), style == "deepObject", "content" in described
    )


def _described(parameter: Json) -> Json:
    content: Json = next(iter(parameter.get("content", {}).values()), {})
    schema = _schema(parameter.get("schema") or content.get("schema") or {})
    return schema | ({"description": parameter["description"]} if parameter.get("description") else {})


def _body(body: Json) -> Json:
    for kind, content in body.get("content", {}).items():
        if re.fullmatch(r"application/(.*\+)?json", kind.partition(";")[0].strip()):
            return _schema(content.get("schema") or {})
    raise Unusable("its body is no JSON")


def _told(operation: Json, item: Json, otherwise: str) -> str:
    said = [operation.get("summary"), operation.get("description") or item.get("description")]
    return "\n\n".join(dict.fromkeys(each.strip() for each in said if each)) or otherwise


def _with_definitions(document: Json, schema: Json) -> Json:
    """A schema with all that it refers to."""
    known = document.get("components", {}).get("schemas", {})
    definitions: Json = {}
    missing = set(_references(schema))
    while missing:
        name = missing.pop()
        if name not in known:
            raise Unusable(f"it refers to the schema {name}, which is not there")
        definitions[name] = _schema(known[name])
        missing |= set(_references(definitions[name])) - definitions.keys()
    return schema | ({"$defs": definitions} if definitions else {})


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix("#/$defs/")
        for each in schema.values():
            yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def _schema(schema: Any) -> Any:
    """One schema of the document as JSON Schema (2020-12)."""
    if isinstance(schema, list):
        return [_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    said = {name: _word(name, value) for name, value in schema.items() if name not in _FOREIGN}
    if isinstance(reference := said.get("$ref"), str):
        if not reference.startswith(_SCHEMAS):
            raise Unusable(f"it refers to {reference}, which is not among the document's own schemas")
        said["$ref"] = f"#/$defs/{reference.removeprefix(_SCHEMAS)}"
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(said.get(exclusive), bool) and said.pop(exclusive) and bound in said:
            said[exclusive] = said.pop(bound)
    if schema.get("nullable") is True:
        said = {"anyOf": [said, {"type": "null"}]}
    return said


def _word(name: str, value: Any) -> Any:
    """What one of a schema's words says: schemas by names of the author's choice, plain values, or schemas."""
    if name in ("properties", "patternProperties", "dependentSchemas", "$defs") and isinstance(value, dict):
        return {own: _schema(each) for own, each in value.items()}
    return value if name in ("enum", "const", "default", "examples", "required") else _schema(value)


_FOREIGN = frozenset({"nullable", "discriminator", "xml", "externalDocs", "example"})
"""Words of OpenAPI's that JSON Schema does not know."""


def _resolved(document: Json, part: Json) -> Json:
    """What a reference inside the document stands for."""
    for _ in range(16):
        reference = part.get("$ref")
        if not isinstance(reference, str):
            return part
        if not reference.startswith("#/"):
            raise ValueError(f"{reference} lies outside of the document; bundle it into one file")
        found: Any = document
        for step in reference[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise ValueError(f"{reference} is not in the document")
        part = found
    raise ValueError(f"{part['$ref']} leads in a circle")
