"""Thinking: the deployment is asked as any client asks it, through the cluster's own port, on behalf of a principal.

So the key's limits and priority hold, its principal and the run's thread stand in the record, and a canary draws the
thread like any other session. What waits (429, 503, a replica that restarts) is asked again, for as long as the run has
time: whoever calls puts the bound.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import aiohttp

from services.agents.journal import Thought
from services.agents.loop import ModelError, Turn
from services.gateway.behalf import BEHALF, sign

AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
FAULTS = 3
"""How often in a row an engine may fail on the same question: then it is the question."""
MOST_WAIT_S = 30.0


class Deployment:
    """Asks the gateway behind `address`, such as `http://127.0.0.1:8000`."""

    def __init__(self, address: str, mint_key: bytes, tokens: bool = True) -> None:
        self._url, self._key, self._tokens = f"{address}/v1/chat/completions", mint_key, tokens
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, turn: Turn) -> Thought:
        body: dict[str, Any] = {
            "model": turn.model,
            "messages": turn.messages,
            "temperature": turn.temperature,
            "max_tokens": turn.max_tokens,
        }
        if turn.tools:
            body["tools"] = turn.tools
        if self._tokens:
            body |= {"logprobs": True, "return_token_ids": True}
        attempt = faults = 0
        while True:
            status, headers, answer = await self._post(turn, body)
            if status == 200:
                return thought(answer, headers)
            faults = faults + 1 if status == 500 else 0
            if status not in AGAIN or faults >= FAULTS:
                raise ModelError(complaint(status, answer))
            await asyncio.sleep(pause_s(headers.get("retry-after"), attempt))
            attempt += 1

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, turn: Turn, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        headers = {
            BEHALF.decode(): sign(self._key, turn.principal, time.time()).decode(),
            "x-session-id": turn.session,
        }
        try:
            async with self._open().post(self._url, json=body, headers=headers) as answer:
                # Serve's own words, while no replica answers, are plain text.
                said = await answer.json() if answer.content_type == "application/json" else None
                return (503 if said is None else answer.status), {k.lower(): v for k, v in answer.headers.items()}, said
        except (aiohttp.ClientError, ValueError):  # nobody listens, or the connection broke: nothing was said
            return 503, {}, None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # on the first question: a session belongs to a running event loop
            # As in services/gateway/forward.py: HAProxy ends idle connections when an application comes or goes.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5), connector=connector
            )
        return self._session


def thought(answer: dict[str, Any], headers: dict[str, str]) -> Thought:
    """What a chat completion says. Raises `ModelError` if it is none."""
    try:
        choice = answer["choices"][0]
        given = choice["message"]
        message = {"role": "assistant", "content": given.get("content")}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ModelError("the model's answer is no chat completion") from None
    if given.get("tool_calls"):
        message["tool_calls"] = [
            {"id": call.get("id"), "type": "function", "function": call.get("function")} for call in given["tool_calls"]
        ]
    usage = answer.get("usage") or {}
    known = [each.get("logprob") for each in (choice.get("logprobs") or {}).get("content") or ()]
    return Thought(
        message,
        request_id=headers.get("x-request-id", ""),
        version=headers.get("x-trivium-version", ""),
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        finish_reason=choice.get("finish_reason"),
        token_ids=choice.get("token_ids"),
        logprobs=[round(each, 5) for each in known] if known and None not in known else None,
    )


def complaint(status: int, answer: Any) -> str:
    """One sentence about an answer that is an error."""
    try:
        said = str(answer["error"]["message"])
    except (KeyError, TypeError):
        said = "nothing"
    return f"the model cannot answer ({status}): {said[:500]}"


def pause_s(retry_after: str | None, attempt: int) -> float:
    """Seconds until the next try: what the answer asks for, else twice as long each time; never in step with others."""
    try:
        wait_s = float(retry_after or "")
    except ValueError:
        wait_s = 0.25 * 2 ** min(attempt, 7)
    return min(max(wait_s, 0.05), MOST_WAIT_S) * random.uniform(0.8, 1.2)
