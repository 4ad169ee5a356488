"""The registry of tools: what an agent's settings may name."""

from __future__ import annotations

from typing import Any

import pytest

from services.agents.tools import Invocation, Result, Tool, Toolbox


def tool(name: str, owner: str = "builtin", **more: Any) -> Tool:
    async def run(_: Invocation) -> Result:
        return Result("")

    return Tool(name, "Does something.", {"type": "object"}, run, owner, **more)


BOX = Toolbox([tool("read"), tool("find", "mcp:shop"), tool("order", "mcp:shop"), tool("rain", "openapi:weather")])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("read", "rain"), {"read", "rain"}),
        (("mcp:shop/*",), {"find", "order"}),
        (("mcp:shop/find", "openapi:weather/*"), {"find", "rain"}),
        (("mcp:shop/*", "find"), {"find", "order"}),
        (("mcp:pantry/*", "mcp:shop/gone", "a2a:clerk/*"), set()),
        ((), set()),
    ],
)
def test_an_agent_gets_what_its_settings_name(names: tuple[str, ...], chosen: set[str]) -> None:
    assert {each.name for each in BOX.chosen(names)} == chosen


@pytest.mark.parametrize("name", ["write", "openapi:pollen/*", "openapi:weather/snow", "function:gone/f"])
def test_a_name_that_nobody_has_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"there is no tool {name.replace('*', '.')}; there are: find, order, rain, read"
    ):
        BOX.chosen([name])


def test_two_tools_of_one_name_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="mcp:shop and builtin both have a tool called read; rename one of them"):
        Toolbox([tool("read"), tool("read", "mcp:shop")])


def test_another_description_is_another_version_and_another_owner_is_not() -> None:
    assert tool("read").version == tool("read", "mcp:shop", idempotent=True).version
    other = Tool("read", "Does something else.", {"type": "object"}, BOX.get("read").run, "builtin")  # type: ignore[union-attr]
    assert other.version != tool("read").version
