"""A function with type hints and a docstring is a tool; one that a model could not understand says why it is none."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import Field

from services.agents.toolbox.functions import FunctionSettings, from_function, function_tool
from services.agents.tools import Invocation, Result, Tool, ToolError
from tests.services.agents.asking import call, caller


@dataclass
class Price:
    euros: float
    thread: str


def price(article: str, count: Annotated[int, Field(ge=1, description="Pieces")] = 1) -> Price:
    """What so many pieces cost.

    Without taxes.
    """
    if article == "moon":
        raise ToolError("the moon is not for sale")
    return Price(2.5 * count, threading.current_thread().name)


async def order(article: str, call: Invocation, *, copy: bool = False) -> str:
    """Order something."""
    await asyncio.sleep(0)
    return f"{call.operation} for {call.caller.principal}: {article} {copy}"


def failing() -> Result:
    """Say that it did not work."""
    return Result("out of paper", failed=True)


HERE = __name__


def tool(function: str, **more: Any) -> Tool:
    return function_tool(FunctionSettings(function=f"{HERE}:{function}", **more))


def test_model_is_told_what_hints_and_docstring_say() -> None:
    made = tool("price")
    assert (made.name, made.owner, made.idempotent) == ("price", f"function:{HERE}", False)
    assert made.description == "What so many pieces cost.\n\nWithout taxes."
    assert made.schema["properties"]["count"] | {"title": ""} == {
        "type": "integer",
        "minimum": 1,
        "default": 1,
        "description": "Pieces",
        "title": "",
    }
    assert made.schema["required"] == ["article"] and made.schema["additionalProperties"] is False
    jsonschema.Draft202012Validator.check_schema(made.schema)


async def test_function_runs_beside_the_event_loop_and_its_value_is_json() -> None:
    said = await tool("price").run(call(article="tea", count=2))
    assert said.structured["euros"] == 5.0 and '"euros": 5.0' in said.content
    assert said.structured["thread"] != threading.current_thread().name


async def test_coroutine_may_know_the_call_and_its_caller() -> None:
    made = tool("order", name="buy", idempotent=True)
    assert (made.name, made.idempotent) == ("buy", True) and set(made.schema["properties"]) == {"article", "copy"}
    said = await made.run(call(caller("ada"), "op-7", article="tea", copy=True))
    assert said.content == "op-7 for ada: tea True"


async def test_what_the_model_may_repair_goes_back_to_it() -> None:
    with pytest.raises(ToolError, match="moon is not for sale"):
        await tool("price").run(call(article="moon"))
    with pytest.raises(ToolError, match="count: Input should be greater than or equal to 1"):
        await tool("price").run(call(article="tea", count=0))
    with pytest.raises(ToolError, match="colour"):
        await tool("price").run(call(article="tea", colour="red"))
    assert (await tool("failing").run(call())).failed


def untold(a: int) -> int:
    return a


def untyped(a):  # type: ignore[no-untyped-def]
    """Add."""


def starred(*a: int) -> None:
    """Add."""


def strange(a: threading.Lock) -> None:
    """Add."""


@pytest.mark.parametrize(
    ("function", "complaint"),
    [(untold, "no docstring"), (untyped, "no type hint"), (starred, r"takes \*a"), (strange, "no JSON Schema")],
)
def test_what_a_model_could_not_understand_is_no_tool(function: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_function(function, name=function.__name__, owner="function:here")


@pytest.mark.parametrize("name", ["nowhere.at.all:f", f"{HERE}:nobody"])
def test_function_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"the tool {name} cannot be imported"):
        function_tool(FunctionSettings(function=name))
