"""The live deployment as the pipelines ask it: any client's paths, as evaluations, with patience."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cluster.client import find_key
from cluster.records import Message
from cluster.settings import Settings
from pipelines.artifacts import Row
from pipelines.recipe import EvaluationSettings

if TYPE_CHECKING:
    import httpx

CHAT, COMPLETIONS = "chat/completions", "completions"


@dataclass(frozen=True)
class Reply:
    """An answer's body; None where the deployment refused the request, and why."""

    body: dict[str, Any] | None
    refusal: str | None = None


class Deployment:
    """Replicas restart, and 503 says `come again`: requests are put again until patience ends."""

    def __init__(self, settings: Settings, evaluation: EvaluationSettings) -> None:
        import httpx

        self._patience_s = evaluation.patience_s
        self._http = httpx.AsyncClient(
            base_url=settings.base_url,
            headers={"authorization": f"Bearer {find_key(settings)}", "x-trivium-purpose": "evaluation"},
            timeout=evaluation.timeout_s,
            limits=httpx.Limits(max_connections=evaluation.concurrency),
            trust_env=False,
        )

    async def ask(self, version: str, path: str, body: dict[str, Any]) -> Reply:
        """What a version says at a path below `/v1`. Waits out restarts; what it cannot serve is a refusal."""
        deadline, pause_s, errors = time.monotonic() + self._patience_s, 0.25, 0
        while True:
            response, said = await self._post(path, {"model": version, **body})
            match _meaning(response):
                case "answer":
                    assert response is not None
                    return Reply(response.json())
                case "forbidden" | "unknown":
                    raise ValueError(f"{version} cannot be asked: {said}")
                case "refusal":
                    return Reply(None, said)
                case "error":
                    # The engine's own errors are tried again, but not for minutes: some belong to the request.
                    errors += 1
                    if errors == 3:
                        return Reply(None, said)
            if time.monotonic() > deadline:
                raise ValueError(
                    f"the deployment has not answered {version} for {self._patience_s:.0f} s ({said}); "
                    f"see `trivium status`, then run the cycle again: it goes on from here"
                )
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 5)

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[httpx.Response | None, str]:
        import httpx

        try:
            response = await self._http.post(path, json=body)
        except httpx.TransportError as error:
            return None, f"{type(error).__name__}: {error}"
        return response, _error(response)

    async def close(self) -> None:
        await self._http.aclose()


def chat(row: Row, settings: EvaluationSettings) -> dict[str, Any]:
    """A row as a chat request: its form as it was logged, greedy.

    Where no `tool_choice` was logged and the reference calls a tool, the answer must too: the question is then which
    tool and with what arguments.
    """
    body: dict[str, Any] = {
        "messages": row.messages[:-1],
        "temperature": 0,
        "seed": 0,
        "max_tokens": settings.max_tokens,
        **row.options,
    }
    if row.tools:
        calls = bool(row.messages[-1].get("tool_calls"))
        body = {"tools": row.tools, "tool_choice": "required" if calls else "auto", **body}
    return body


def message(said: Message) -> Message:
    """The fields of a message that a scorer reads; an engine adds others (`reasoning`, `audio`, ...), mostly null."""
    return {key: said[key] for key in ("role", "content", "tool_calls") if said.get(key)}


def _meaning(response: httpx.Response | None) -> Literal["answer", "forbidden", "unknown", "refusal", "error", "away"]:
    """What to make of a response. Plain text is Serve's own, while an application restarts; None is no connection."""
    if response is not None and response.is_success:
        return "answer"
    if response is None or not _in_form(response) or response.status_code in (429, 503):
        return "away"
    match response.status_code:
        case 401 | 403:
            return "forbidden"
        case 404:
            return "unknown"
        case code:
            return "refusal" if code < 500 else "error"


def _in_form(response: httpx.Response) -> bool:
    """Whether an error is the gateway's or the engine's (OpenAI's form), not Serve's plain text during a restart."""
    try:
        return isinstance(response.json()["error"], dict)
    except (ValueError, KeyError, TypeError):
        return False


def _error(response: httpx.Response) -> str:
    if response.is_success:
        return ""
    if _in_form(response):
        return str(response.json()["error"].get("message"))
    return f"{response.status_code} {response.text[:100].strip()}"
