"""`make bench NAME=mcp_call`: what a call through /mcp costs beside what the tool itself does.

The application of /mcp, keys and all, in a process of its own on a port of loopback; a client of the official SDK keeps
its connection open and calls a tool that answers at once, one call after the other. The two eras of the protocol in
turns, and beside them the same request by plain HTTP: what is ours and the server's, without the SDK's client.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from benchmarks import ROUNDS, conclude, quantile
from cluster.auth import Keys, Principal, mint_key

CALLS = 300
"""Of one round and way."""
WARM = 50
"""More before them, which do not count."""
WAYS = {"2026-07-28": "auto", "2025-11-25": "legacy", "plain HTTP": None}
CALL = ("ask_model", {"prompt": "hello"})
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def serve_until_ended(state: Path) -> None:
    """The server's process: prints its address, and serves."""
    import socket

    import uvicorn

    from services.agents.mcp_offer import Offer, cluster_tools
    from services.agents.mcp_server import McpSettings, serve

    async def ask(who: Principal, model: str, prompt: str) -> str:
        return prompt

    async def status() -> dict[str, Any]:
        return {}

    app = serve(cluster_tools(Offer(state, mint_key(state), status, ask)), Keys(state), McpSettings())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        await uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning")).serve([listener])


@contextmanager
def server(state: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.mcp_call", "--serve", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@asynccontextmanager
async def caller(way: str, url: str, key: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """What makes one call, on a connection that stays open."""
    headers, mode = {"authorization": f"Bearer {key}"}, WAYS[way]
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
        if mode is not None:
            async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                await client.list_tools()
                yield lambda: client.call_tool(*CALL)
            return
        name, arguments = CALL
        params = {"name": name, "arguments": arguments, "_meta": _META}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        fields = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name}
        fields["accept"] = "application/json, text/event-stream"

        async def post() -> None:
            (await http.post(url, json=request, headers=fields)).raise_for_status()

        yield post


async def measure(state: Path, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, list[float]]:
    """Milliseconds of each call, by way."""
    key = Keys(state).create("bench", ("agents",))
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    with server(state) as url:
        async with httpx2.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    await http.get(url)
                    break
                except httpx2.ConnectError:
                    await asyncio.sleep(0.1)
        for _ in range(rounds):
            for way in WAYS:
                async with caller(way, url, key) as call:
                    for number in range(WARM + calls):
                        began = time.perf_counter()
                        await call()
                        if number >= WARM:
                            took[way].append((time.perf_counter() - began) * 1e3)
    return took


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make bench NAME=mcp_call", description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        return asyncio.run(serve_until_ended(chosen.serve))
    with tempfile.TemporaryDirectory() as folder:
        took = asyncio.run(measure(Path(folder), chosen.rounds, chosen.calls))
    for way, times in took.items():
        figures = "   ".join(f"p{share * 100:.0f} {quantile(times, share):6.2f} ms" for share in (0.1, 0.5, 0.99))
        print(f"{way:<12} {figures}", flush=True)
    now, older = took["2026-07-28"], took["2025-11-25"]
    conclude(
        chosen.rounds,
        mcp_call_p50_ms=quantile(now, 0.5),
        mcp_call_p99_ms=quantile(now, 0.99),
        mcp_call_2025_p50_ms=quantile(older, 0.5),
    )


if __name__ == "__main__":
    main()
