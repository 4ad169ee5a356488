"""A LangGraph agent as LangGraph's documentation writes one: our endpoint is its model, /mcp has its tools."""

import asyncio
import os
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent


async def main(task: str) -> None:
    server = {
        "transport": "streamable_http",
        "url": os.environ["MCP_URL"],
        "headers": {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    }
    tools = await MultiServerMCPClient({"trivium": server}).get_tools()
    model = ChatOpenAI(model="scripted", default_headers={"x-session-id": "graph"})
    said = await create_react_agent(model, tools).ainvoke({"messages": [("user", task)]})
    print(said["messages"][-1].content)


asyncio.run(main(sys.argv[1]))
