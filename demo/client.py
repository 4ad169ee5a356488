"""The application: asks through the OpenAI client, compares the answers with what users meant, sends their feedback."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from demo.feedback import Dilution, opinion
from demo.traffic import Wish

Item = TypeVar("Item")
Result = TypeVar("Result")

CONCURRENCY = 16
SESSION_REQUESTS = 4
"""Requests of one user in a row; a session never straddles training and holdout."""


@dataclass(frozen=True)
class Answer:
    """What came back for one wish."""

    wish: Wish
    at_s: float
    """When it was complete, in seconds of `time.monotonic()`."""
    latency_s: float
    request_id: str | None = None
    version: str | None = None
    tool: str | None = None
    arguments: Any = None
    calls: int = 0
    error: str | None = None

    @property
    def tool_right(self) -> bool:
        return self.tool == self.wish.tool

    @property
    def exact(self) -> bool:
        """One call, to the right tool, with exactly the right arguments."""
        return self.calls == 1 and self.tool_right and self.arguments == self.wish.arguments


@dataclass
class Tally:
    """What the live requests came to."""

    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    feedback: dict[str, int] = field(
        default_factory=lambda: {"given": 0, "scores_only": 0, "corrections": 0, "wrong": 0}
    )

    @property
    def requests(self) -> int:
        return len(self.answers)


class Application:
    """One user of the API. `model` is the alias that it calls."""

    def __init__(self, base_url: str, api_key: str, tools: list[dict[str, Any]], model: str = "assistant") -> None:
        # Without retries: a request that fails once counts as failed.
        self._openai = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=180,
            # The cluster is on this machine: a proxy named in the environment has no business here.
            http_client=DefaultAsyncHttpxClient(trust_env=False),
        )
        self._tools: Any = tools
        self._model = model

    async def ask(self, wish: Wish, session: str, store: bool) -> Answer:
        """One request with every tool on offer."""
        begun = time.monotonic()
        try:
            raw = await self._openai.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": wish.text}],
                tools=self._tools,
                tool_choice="required",
                temperature=0,
                max_completion_tokens=160,
                store=store,
                extra_headers={"x-session-id": session},
            )
            message = raw.parse().choices[0].message
        except OpenAIError as error:
            return Answer(wish, time.monotonic(), time.monotonic() - begun, error=f"{type(error).__name__}: {error}")
        calls = [call.function for call in message.tool_calls or [] if call.type == "function"]
        return Answer(
            wish,
            at_s=time.monotonic(),
            latency_s=time.monotonic() - begun,
            request_id=raw.headers.get("x-request-id"),
            version=raw.headers.get("x-trivium-version"),
            tool=calls[0].name if calls else None,
            arguments=parsed(calls[0].arguments) if calls else None,
            calls=len(calls),
        )

    async def measure(self, wishes: list[Wish], seen: Callable[[Answer], None]) -> list[Answer]:
        """Answers to `wishes`, in order; `store: false`, so that nothing of them can be learned from."""

        async def one(numbered: tuple[int, Wish]) -> Answer:
            answer = await self.ask(numbered[1], session=f"measure-{numbered[0]}", store=False)
            seen(answer)
            return answer

        return await side_by_side(list(enumerate(wishes)), one)

    async def live(
        self, wishes: list[Wish], dilution: Dilution, run: str, tally: Tally, seen: Callable[[Answer], None]
    ) -> None:
        """Ask what users say, and tell the cluster what they think of the answers."""
        first = tally.requests

        async def one(index: int) -> None:
            wish = wishes[index]
            answer = await self.ask(wish, session=f"{run}-{(first + index) // SESSION_REQUESTS}", store=True)
            tally.answers.append(answer)
            if answer.error:
                tally.failures.append(answer.error)
            else:
                dice = random.Random(f"{run}-{first + index}")
                await self._tell(answer, wishes[index - 1], dilution, dice, tally)
            seen(answer)

        await side_by_side(range(len(wishes)), one)

    async def _tell(self, answer: Answer, other: Wish, dilution: Dilution, dice: random.Random, tally: Tally) -> None:
        thought = opinion(answer.wish, answer.exact, other, dilution, dice)
        if thought is None:
            return
        body: dict[str, Any] = {"request_id": answer.request_id, "score": thought.score, "source": "user"}
        if thought.correction:
            body["correction"] = thought.correction
        try:
            await self._openai.post("/feedback", body=body, cast_to=object)
        except OpenAIError as error:
            tally.failures.append(f"feedback: {type(error).__name__}: {error}")
            return
        tally.feedback["given"] += 1
        tally.feedback["corrections" if thought.correction else "scores_only"] += 1
        tally.feedback["wrong"] += thought.wrong

    async def close(self) -> None:
        await self._openai.close()


def parsed(arguments: str) -> Any:
    """A call's arguments; None where they are no JSON, which is then simply a wrong answer."""
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return None


def owner(base_url: str, api_key: str, timeout_s: float) -> httpx.AsyncClient:
    """For what is beside OpenAI's API, at paths from the root: `/admin`, `/agents`."""
    root = base_url.removesuffix("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {api_key}"}
    return httpx.AsyncClient(base_url=root, headers=headers, timeout=timeout_s, trust_env=False)


async def side_by_side(items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """`work` on every item, `CONCURRENCY` at a time; results in the order of the items."""
    places = asyncio.Semaphore(CONCURRENCY)

    async def one(item: Item) -> Result:
        async with places:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
