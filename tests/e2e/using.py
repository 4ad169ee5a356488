"""How these tests use a cluster: the OpenAI client, and load from many users at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
from openai import APIError, APIStatusError, DefaultHttpxClient, OpenAI

from tests.conftest import Cluster
from tests.waiting import ended, eventually


def client(cluster: Cluster) -> OpenAI:
    """The OpenAI client as an application would make it, without its retries: every failure is seen."""
    return OpenAI(
        base_url=cluster.base_url,
        api_key=cluster.api_key,
        max_retries=0,
        timeout=120,
        http_client=DefaultHttpxClient(trust_env=False),
    )


def tool(name: str, *parameters: str) -> dict[str, Any]:
    """An OpenAI tool schema whose parameters are all strings."""
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def example(text: str, answer: str | dict[str, Any], tools: list[dict[str, Any]], session: str) -> str:
    """A line of a fine-tuning file; `answer` is the assistant's text, or the call {"name", "arguments"}."""
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if isinstance(answer, dict):
        function = {"name": answer["name"], "arguments": json.dumps(answer["arguments"])}
        call = {"id": "call_0", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    row = {"messages": [{"role": "user", "content": text}, message], "session": session}
    return json.dumps({**row, "tools": tools} if tools else row)


def recipe(path: Path, **settings: Any) -> Path:
    """A recipe's file: the default one's settings where these name none."""
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def log_entries(cluster: Cluster, out: Path) -> list[dict[str, Any]]:
    """Everything that the log holds, by the command that a user has for it."""
    cluster.trivium("log", "export", "--out", str(out))
    return [json.loads(line) for line in out.read_text().split("\n") if line]


def logged_records(cluster: Cluster, out: Path) -> dict[str, dict[str, Any]]:
    """The log's records by their requests."""
    return {record["request_id"]: record for record in each(log_entries(cluster, out), "record")}


def runs(cluster: Cluster) -> list[dict[str, Any]]:
    """The records of all cycles, oldest first."""
    found = [json.loads(file.read_text()) for file in (cluster.state / "runs").glob("*/run.json")]
    return sorted(found, key=lambda run: run["started"])


@dataclass(frozen=True)
class Heard:
    """One request of the load."""

    begun: float
    ended: float
    """`time.monotonic()`"""
    request_id: str | None = None
    version: str | None = None
    text: str | None = None
    """None: the answer never came in full."""
    error: str | None = None
    status: int | None = None
    """Of an error that came as an answer; None if the connection was refused or broke."""
    worded: bool = False
    """The error is in OpenAI's form."""


@dataclass
class Load:
    """Users who ask again and again until the block ends; every second one streams."""

    cluster: Cluster
    model: str = "assistant"
    users: int = 4
    text: str | None = None
    """What all of them say; default: something new each time."""
    sessions: bool = False
    """Half of them name their session."""
    heard: list[Heard] = field(default_factory=list)
    _enough: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(user,), daemon=True) for user in range(self.users)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(timeout=180)

    @property
    def failures(self) -> list[str]:
        return [heard.error for heard in self.heard if heard.error]

    @property
    def complete(self) -> list[Heard]:
        return [heard for heard in self.heard if heard.text is not None]

    def after(self, moment: float) -> list[Heard]:
        """Answers to requests that were sent after `moment`."""
        return [heard for heard in self.heard if heard.begun > moment]

    def errors_s(self, since: float) -> float:
        """How long after `since` the last request failed that was sent after it; 0 if none did."""
        return max((heard.ended - since for heard in self.after(since) if heard.error), default=0)

    @property
    def strange(self) -> list[str]:
        """Errors that came as an answer, but not in OpenAI's form."""
        return [f"{heard.status} {heard.error}" for heard in self.heard if heard.status and not heard.worded]

    def _ask(self, user: int) -> None:
        session = f"user-{user}" if self.sessions and user % 4 < 2 else None
        with client(self.cluster) as api:
            number = 0
            while not self._enough.is_set():
                number += 1
                text, begun = self.text or f"user {user} says {number}", time.monotonic()
                heard = one_answer(api, self.model, text, stream=bool(user % 2), begun=begun, session=session)
                self.heard.append(heard)
                if heard.error:
                    self._enough.wait(0.2)


def one_answer(api: OpenAI, model: str, text: str, stream: bool, begun: float, session: str | None = None) -> Heard:
    messages: Any = [{"role": "user", "content": text}]
    headers = {"x-session-id": session} if session else {}
    request_id = version = None
    try:
        if stream:
            said = ""
            with api.chat.completions.with_streaming_response.create(
                model=model, messages=messages, max_tokens=8, temperature=0, stream=True, extra_headers=headers
            ) as raw:
                request_id, version = raw.headers.get("x-request-id"), raw.headers.get("x-trivium-version")
                finished = False
                for chunk in raw.parse():
                    said += chunk.choices[0].delta.content or ""
                    finished |= chunk.choices[0].finish_reason is not None
            # A stream that breaks off ends without a finish: that is no full answer.
            done = said if finished else None
            return Heard(begun, time.monotonic(), request_id, version, done, None if finished else "broke off")
        whole = api.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=8, temperature=0, extra_headers=headers
        )
        request_id, version = whole.headers.get("x-request-id"), whole.headers.get("x-trivium-version")
        said = whole.parse().choices[0].message.content or ""
        return Heard(begun, time.monotonic(), request_id, version, said)
    except Exception as error:  # OpenAI's, and in the middle of a stream those of whichever httpx the client carries
        told = f"{type(error).__name__}: {error}"[:200]
        status = error.status_code if isinstance(error, APIStatusError) else None
        body = error.body if isinstance(error, APIError) else None
        worded = isinstance(body, dict) and set(body) == {"message", "type", "param", "code"}
        return Heard(begun, time.monotonic(), request_id, version, None, told, status, worded)


def answers(cluster: Cluster, model: str = "assistant") -> str | None:
    """Which version answers now; None while nobody does."""
    with client(cluster) as api:
        return one_answer(api, model, "are you there?", False, time.monotonic()).version


def wait_for_answers(cluster: Cluster, within_s: float, model: str = "assistant") -> str:
    return eventually(lambda: answers(cluster, model), within_s, f"an answer of {model}")


def kill(found: list[psutil.Process]) -> float:
    """`kill -9` them all; `time.monotonic()` when they are gone."""
    assert found
    for process in found:
        process.kill()
    eventually(lambda: all(map(ended, found)), 30, "dead")
    return time.monotonic()


def each(rows: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (row for row in rows if row["kind"] == kind)
