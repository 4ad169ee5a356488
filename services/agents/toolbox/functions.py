"""Python functions as tools: type hints and docstring are what a model is told of them.

    def price(article: str, count: Annotated[int, Field(ge=1, description="Pieces")] = 1) -> float:
        '''What so many pieces cost, in euros.'''

Coroutines run on the event loop, other functions in a thread (which nothing can stop: a time-out only stops waiting). A
parameter that is annotated as `Invocation` gets the call itself, with its operation id and caller; a model sees nothing
of it. A function raises `ToolError` for what the model may repair.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import warnings
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, create_model
from pydantic_core import to_jsonable_python

from cluster.settings import Strict, explain
from services.agents.tools import Invocation, Result, Tool, ToolError


class FunctionSettings(Strict):
    """One function."""

    function: Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]
    """`module:function`; every process of the cluster can import it."""
    name: str | None = None
    """The function's own if left out."""
    idempotent: bool = False
    """Whether the same operation may be carried out again: what has no effect, or knows its operation by the id."""
    timeout_s: float = 60.0


def function_tool(settings: FunctionSettings) -> Tool:
    """Raises `ValueError`, one sentence, for what cannot be a tool."""
    module, _, name = settings.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the tool {settings.function} cannot be imported: {error}") from None
    return from_function(
        function,
        name=settings.name or name,
        owner=f"function:{module}",
        idempotent=settings.idempotent,
        timeout_s=settings.timeout_s,
    )


def from_function(
    function: Callable[..., Any], *, name: str, owner: str, idempotent: bool = False, timeout_s: float = 60.0
) -> Tool:
    """The tool that calls a function. Raises `ValueError`, one sentence, if it cannot be one."""
    description = inspect.getdoc(function)
    if not description:
        raise ValueError(f"the function {name} of {owner} has no docstring, so no model can know what it is for")
    taken, of_call = _parameters(function, name)
    arguments, schema = _model(name, taken)

    async def run(invocation: Invocation) -> Result:
        try:
            checked = arguments.model_validate(invocation.arguments)
        except ValidationError as error:
            raise ToolError(f"the arguments do not fit: {explain(error)}") from None
        given = {field: getattr(checked, field) for field in type(checked).model_fields}
        given |= dict.fromkeys(of_call, invocation)
        if inspect.iscoroutinefunction(function):
            return _result(await function(**given))
        return _result(await asyncio.to_thread(function, **given))

    return Tool(name, description, schema, run, owner, idempotent, timeout_s)


def _parameters(function: Callable[..., Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """What a model may give, as pydantic has fields, and the names of what gets the call itself."""
    hints = get_type_hints(function, include_extras=True)
    taken, of_call = dict[str, Any](), list[str]()
    for each in inspect.signature(function).parameters.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ValueError(f"the function {name} takes {each}, which has no name to give it by")
        if each.name not in hints:
            raise ValueError(f"the parameter {each.name} of {name} has no type hint, so no schema says what it takes")
        if hints[each.name] is Invocation:
            of_call.append(each.name)
        else:
            taken[each.name] = (hints[each.name], ... if each.default is each.empty else each.default)
    return taken, of_call


def _model(name: str, taken: dict[str, Any]) -> tuple[type[BaseModel], dict[str, Any]]:
    config = ConfigDict(extra="forbid", protected_namespaces=())
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            # A parameter that is called as one of pydantic's own attributes (`copy`, `json`) only hides it.
            model = create_model(name, __config__=config, **taken)
        schema = model.model_json_schema()
    except Exception as error:  # a TypeError of pydantic's, or what a type of somebody's own raises
        raise ValueError(f"the parameters of {name} have no JSON Schema: {str(error).splitlines()[0]}") from None
    schema.pop("title", None)
    return model, schema


def _result(value: Any) -> Result:
    if isinstance(value, Result):
        return value
    if isinstance(value, str):
        return Result(value)
    plain = to_jsonable_python(value)
    return Result(json.dumps(plain, ensure_ascii=False), structured=plain)
