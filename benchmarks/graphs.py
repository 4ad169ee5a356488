"""The job of `benchmarks.agents` as LangGraph's own documentation builds an agent: a graph of model and tools, with a
checkpointer. Its annotations are looked at when it is imported, so they are not postponed.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosqlite
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


async def runner(
    database: Path,
    calls: int,
    think: Callable[[str, int], Awaitable[str | None]],
    act: Callable[[str], Awaitable[str]],
    task: str,
) -> Callable[[str], Awaitable[None]]:
    """What carries out one run, by its name."""

    async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        said = sum(isinstance(each, ToolMessage) for each in state["messages"])
        wants = await think(config["configurable"]["thread_id"], said)
        if wants is None:
            return {"messages": [AIMessage("done")]}
        call = {"id": f"call-{said}", "name": "note", "args": {"text": wants}}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    @tool
    async def note(text: str, config: RunnableConfig) -> str:
        """Notes a text."""
        return await act(config["configurable"]["thread_id"])

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([note]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    made = graph.compile(checkpointer=AsyncSqliteSaver(await aiosqlite.connect(database)))

    async def run(name: str) -> None:
        config: RunnableConfig = {"configurable": {"thread_id": name}, "recursion_limit": 4 * calls + 8}
        said = await made.ainvoke({"messages": [SystemMessage(task), HumanMessage(name)]}, config, durability="sync")
        assert said["messages"][-1].content == "done"

    return run
