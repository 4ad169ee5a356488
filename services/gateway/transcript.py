"""Putting an answer together: from one whole body, or event by event from a stream. Both give the same transcript."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cluster.records import Message
from services.gateway import dialogue
from services.gateway.parameters import CHAT, RESPONSES

# In JSON a quotation mark inside of a string is escaped, so these byte patterns can only match real keys.
_FINISH = re.compile(rb'"finish_reason":\s*"')
_ONLY_USAGE = re.compile(rb'"choices":\s*\[\s*\]')
_LAST_RESPONSE = re.compile(rb'"type":\s*"response\.(completed|incomplete|failed)"')
DONE = b"data: [DONE]"


class Transcript:
    """What an answer says. One subclass for a form of answer; `Transcript.of` chooses."""

    def __init__(self, choices: int) -> None:
        self.choices = choices
        self.answers: list[Message] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.error: str | None = None

    @staticmethod
    def of(path: str, choices: int) -> Transcript:
        if path == RESPONSES:
            return _Response(choices)
        return _Choices(choices, chat=path == CHAT)

    def whole(self, body: dict[str, Any]) -> None:
        """Take a whole answer."""
        raise NotImplementedError

    def event(self, data: dict[str, Any]) -> None:
        """Take one event of a stream."""
        raise NotImplementedError

    def finishes(self, event: bytes) -> bool:
        """Whether the client would have the whole answer with this event. Bytes only: it runs on every event."""
        raise NotImplementedError

    def only_usage(self, event: bytes) -> bool:
        """Whether the event says nothing but token counts."""
        return False

    def feed(self, event: bytes) -> None:
        """Take one event of a stream as it came: `data: JSON`, perhaps after an `event:` line or a comment."""
        start = 0 if event.startswith(b"data: ") else event.find(b"\ndata: ") + 1
        payload = event[start + 6 :].strip()
        if not (start or event.startswith(b"data: ")) or payload == b"[DONE]":
            return
        data = msgspec.json.decode(payload)  # every token passes here, and `json` takes four times as long
        if error := data.get("error"):
            self.error = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        else:
            self.event(data)

    def end(self) -> None:
        """The stream is over, or broken off."""

    def _count(self, usage: dict[str, Any] | None, prompt: str, completion: str) -> None:
        if usage:
            self.prompt_tokens, self.completion_tokens = usage.get(prompt), usage.get(completion)


class _Choices(Transcript):
    """Chat and text completions."""

    def __init__(self, choices: int, chat: bool) -> None:
        super().__init__(choices)
        self._chat = chat
        self._finished = 0
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._thoughts: list[list[str]] = [[] for _ in range(choices)]
        self._calls: list[dict[int, dict[str, Any]]] = [{} for _ in range(choices)]

    def finishes(self, event: bytes) -> bool:
        if _FINISH.search(event):
            self._finished += 1
        return self._finished >= self.choices or event.startswith(DONE)

    def only_usage(self, event: bytes) -> bool:
        return _ONLY_USAGE.search(event) is not None

    def whole(self, body: dict[str, Any]) -> None:
        for choice in body["choices"]:
            said = choice["message"] if self._chat else {"content": choice["text"]}
            self._add(choice["index"], said, choice.get("finish_reason"))
        self._count(body.get("usage"), "prompt_tokens", "completion_tokens")
        self.end()

    def event(self, data: dict[str, Any]) -> None:
        for choice in data.get("choices", ()):
            said = choice["delta"] if self._chat else {"content": choice["text"]}
            self._add(choice["index"], said, choice.get("finish_reason"))
        self._count(data.get("usage"), "prompt_tokens", "completion_tokens")

    def end(self) -> None:
        self.answers = [
            dialogue.message("".join(texts), [calls[i] for i in sorted(calls)], "".join(thoughts))
            for texts, calls, thoughts in zip(self._texts, self._calls, self._thoughts, strict=True)
        ]

    def _add(self, index: int, said: dict[str, Any], finish_reason: str | None) -> None:
        if content := said.get("content"):
            self._texts[index].append(content)
        if thought := said.get("reasoning") or said.get("reasoning_content"):
            self._thoughts[index].append(thought)
        for position, part in enumerate(said.get("tool_calls") or ()):
            function = part.get("function") or {}
            call = self._calls[index].setdefault(part.get("index", position), dialogue.tool_call(None, None, ""))
            call["id"] = call["id"] or part.get("id") or ""
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""
        if finish_reason and index == 0:
            self.finish_reason = finish_reason


class _Response(Transcript):
    """OpenAI's Responses: the last event of a stream holds the whole answer."""

    def __init__(self, choices: int) -> None:
        super().__init__(choices)
        self._texts: list[str] = []

    def finishes(self, event: bytes) -> bool:
        return _LAST_RESPONSE.search(event) is not None

    def whole(self, body: dict[str, Any]) -> None:
        self.answers = [dialogue.from_output(body.get("output") or [])]
        called = "tool_calls" in self.answers[0]
        cut = (body.get("incomplete_details") or {}).get("reason") == "max_output_tokens"
        self.finish_reason = "length" if cut else "tool_calls" if called else "stop"
        self._count(body.get("usage"), "input_tokens", "output_tokens")
        if error := body.get("error"):
            self.error = str(error.get("message", error)) if isinstance(error, dict) else str(error)

    def event(self, data: dict[str, Any]) -> None:
        match data.get("type"):
            case "response.output_text.delta":
                self._texts.append(str(data.get("delta", "")))
            case "response.completed" | "response.incomplete" | "response.failed":
                self.whole(data["response"])

    def end(self) -> None:
        if not self.answers:
            self.answers = [dialogue.message("".join(self._texts), [])]
