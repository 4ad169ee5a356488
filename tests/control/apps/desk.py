"""An agent of the OpenAI Agents SDK as its documentation writes one: our endpoint is its model, /mcp has its tools."""

import asyncio
import os
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI


async def main(task: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(default_headers={"x-session-id": "desk"})
    params = {
        "url": os.environ["MCP_URL"],
        "headers": {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    }
    async with MCPServerStreamableHttp(name="trivium", params=params) as server:
        model = OpenAIChatCompletionsModel(model="scripted", openai_client=client)
        agent = Agent(name="desk", instructions="Help.", mcp_servers=[server], model=model)
        said = await Runner.run(agent, task)
    print(said.final_output)


asyncio.run(main(sys.argv[1]))
