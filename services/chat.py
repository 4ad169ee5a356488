"""`trivium chat`: talk to a model or an agent in a terminal; thumbs and corrections become feedback in the log."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.settings import Settings

HELP = """\
/up [WHY]      it was good
/down [WHY]    it was bad
/fix TEXT      what it should have said
/new           another conversation
/quit          or the end of input"""


@click.command()
@click.option("--model", default="assistant", show_default=True, help="Alias, version or base to talk to.")
@click.option("--agent", metavar="NAME", help="Talk to an agent instead: it may use its tools.")
@click.option("--system", metavar="TEXT", help="What a model is told beforehand.")
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1), help="Longest answer of a model.")
def chat(model: str, agent: str | None, system: str | None, max_tokens: int) -> None:
    """Talk to a model or an agent.

    What you say of an answer is feedback, which the next version learns from: /up, /down, /fix TEXT.
    """
    if agent and system:
        raise click.UsageError("an agent has instructions of its own; leave out --system")
    from cluster.client import Client
    from cluster.settings import Settings

    settings = Settings.from_environment()
    with Client(settings, timeout_s=60) as client:
        other = ByAgent(client, agent) if agent else ByModel(settings, client, model, system, max_tokens)
        _converse(other, sys.stdin.isatty())


class Other(Protocol):
    """Whom one talks to."""

    name: str

    def answer(self, text: str) -> Iterator[str]:
        """Parts of the answer, as they come. Raises `ValueError` with one sentence if there is none."""

    def judge(self, score: float, why: str | None, correction: str | None) -> None:
        """What is thought of the last answer. Raises `ValueError` if there is none."""

    def forget(self) -> None:
        """Begin another conversation."""


@dataclass
class ByModel:
    """Chat completions over the cluster's own API, streamed."""

    settings: Settings
    client: Client
    name: str
    system: str | None
    max_tokens: int
    _messages: list[dict[str, Any]] = field(default_factory=list)
    _session: str = field(default_factory=lambda: f"chat-{secrets.token_hex(8)}")
    _request: str | None = None

    def answer(self, text: str) -> Iterator[str]:
        from openai import APIError, APIStatusError, DefaultHttpxClient, OpenAI

        from cluster.client import find_key

        first = [{"role": "system", "content": self.system}] if self.system else []
        asked: Any = [*first, *self._messages, {"role": "user", "content": text}]
        self._request, said = None, ""
        try:
            with (
                OpenAI(
                    base_url=self.settings.base_url,
                    api_key=find_key(self.settings),
                    http_client=DefaultHttpxClient(trust_env=False),
                ) as api,
                api.chat.completions.with_streaming_response.create(
                    model=self.name,
                    messages=asked,
                    max_tokens=self.max_tokens,
                    stream=True,
                    extra_headers={"x-session-id": self._session},
                ) as raw,
            ):
                for chunk in raw.parse():
                    if chunk.choices and (part := chunk.choices[0].delta.content):
                        said += part
                        yield part
                self._request = raw.headers.get("x-request-id")
        except APIStatusError as error:
            said_why = error.body.get("message") if isinstance(error.body, dict) else None
            raise ValueError(said_why or str(error)) from None
        except APIError as error:
            raise ValueError(f"no answer from {self.settings.base_url} ({error}); is the cluster up?") from None
        self._messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]

    def judge(self, score: float, why: str | None, correction: str | None) -> None:
        if self._request is None:
            raise ValueError("there is no answer yet that could be judged")
        told = {"request_id": self._request, "score": score, "comment": why, "correction": correction}
        self.client.post("/v1/feedback", {name: value for name, value in told.items() if value is not None})

    def forget(self) -> None:
        self._messages, self._request = [], None
        self._session = f"chat-{secrets.token_hex(8)}"


@dataclass
class ByAgent:
    """Runs of one thread; what it wants to know, or may not do without somebody's word, is asked here."""

    client: Client
    name: str
    _thread: str = field(default_factory=lambda: f"chat-{secrets.token_hex(8)}")
    _run: str | None = None
    _request: str | None = None
    """Of the model's last turn."""

    def answer(self, text: str) -> Iterator[str]:
        order = {"input": text, "thread": self._thread}
        view = self.client.post(f"/agents/{self.name}/runs", order)
        self._run, seen = view["id"], 0
        while True:
            for step in self.client.events(f"/agents/runs/{self._run}/events?since={seen}"):
                seen = step["number"] + 1
                yield from self._shown(step)
            view = self.client.get(f"/agents/runs/{self._run}")
            if view["state"] != "input-required":
                break
            yield f"\n{view['question']}\n"
            self._ask(view)
        if view["state"] != "completed":
            raise ValueError(f"the run is {view['state']}: {view['reason'] or 'no reason was given'}")
        yield view["answer"] or ""

    def judge(self, score: float, why: str | None, correction: str | None) -> None:
        if self._run is None:
            raise ValueError("there is no answer yet that could be judged")
        if correction is not None and self._request is not None:
            told = {"request_id": self._request, "score": score, "correction": correction}
            self.client.post("/v1/feedback", told)
        said = {"score": score, "source": "user", **({"comment": why} if why else {})}
        self.client.post(f"/agents/runs/{self._run}/reward", said)

    def forget(self) -> None:
        self._thread, self._run, self._request = f"chat-{secrets.token_hex(8)}", None, None

    def _shown(self, step: dict[str, Any]) -> Iterator[str]:
        body = step["body"]
        match step["event"]:
            case "model":
                self._request = body.get("request_id") or self._request
                for call in body["message"].get("tool_calls") or ():
                    yield f"  {call['function']['name']}({call['function']['arguments']})\n"
            case "result":
                yield f"  -> {' '.join(str(body['content']).split())[:200]}\n"

    def _ask(self, view: dict[str, Any]) -> None:
        if view["wants"] == "words":
            self.client.post(f"/agents/runs/{self._run}/input", {"text": click.prompt("answer")})
        else:
            self.client.post(f"/agents/runs/{self._run}/approve", {"approved": click.confirm("allow it?")})


def _converse(other: Other, terminal: bool) -> None:
    if terminal:
        import readline  # noqa: F401  # `input` then has a history, and lines can be edited

        click.echo(f"{other.name}; /help says what else can be said here")
    while True:
        try:
            line = input("> " if terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if line == "/quit":
            return
        if line:
            try:
                _said(other, line)
            except ValueError as error:
                click.secho(str(error), fg="red", err=True)
            except KeyboardInterrupt:
                click.secho("left off", fg="yellow", err=True)


def _said(other: Other, line: str) -> None:
    if not line.startswith("/"):
        for part in other.answer(line):
            click.echo(_plain(part), nl=False)
        return click.echo()
    command, _, rest = line.partition(" ")
    words = rest.strip() or None
    verdicts: dict[str, Callable[[], None]] = {
        "/up": lambda: other.judge(1.0, words, None),
        "/down": lambda: other.judge(0.0, words, None),
        "/fix": lambda: other.judge(0.0, None, words),
    }
    if command == "/fix" and words is None:
        raise ValueError("write what it should have said behind /fix")
    if command in verdicts:
        verdicts[command]()
        return click.secho("noted", dim=True)
    if command == "/new":
        return other.forget()
    if command == "/help":
        return click.echo(HELP)
    raise ValueError(f"there is no {command}; /help says what there is")


def _plain(text: str) -> str:
    """Without control characters: what models write must not steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
