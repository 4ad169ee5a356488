"""What a caller may say to the engine: OpenAI's parameters and the common samplers', nothing else.

An allow-list, because vLLM takes over a hundred fields, some of them not for callers: `priority` jumps the queue,
`chat_template` is code, `cache_salt` and `kv_transfer_params` reach into caches, `return_token_ids` and
`prompt_logprobs` show the prompt behind the template. Unlisted fields are dropped, as vLLM itself does with fields that
it does not know; those that somebody could count on, and what is too much, are refused by name (`bounds.py`,
`grammars.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import MOST_PRIORITY
from services.gateway import bounds, grammars
from services.gateway.bounds import Bounds, require
from services.gateway.call import Call, call_of

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"

_COMMON = {
    "model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "structured_outputs", "ignore_eos", "store", "user",
    "metadata",
}  # fmt: skip
_GENERATED = {"n", "max_tokens", "min_tokens", "logprobs", "stream_options", "response_format"}
_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
ALLOWED: dict[str, frozenset[str]] = {
    CHAT: frozenset(
        _COMMON | _GENERATED | _TOOLS
        | {"messages", "max_completion_tokens", "top_logprobs", "reasoning_effort", "include_reasoning",
           "chat_template_kwargs"}
    ),
    COMPLETIONS: frozenset(_COMMON | _GENERATED | {"prompt", "suffix", "echo"}),
    RESPONSES: frozenset(
        _COMMON | _TOOLS
        | {"input", "instructions", "max_output_tokens", "text", "reasoning", "include_reasoning", "truncation",
           "top_logprobs", "include", "service_tier", "previous_response_id", "background", "chat_template_kwargs"}
    ),
}  # fmt: skip

_OURS = {"return_token_ids"}
"""What evaluations and agents may ask for besides: a training learns from the very tokens that the engine wrote."""
_TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking"})
"""Switches of well-known templates (Qwen, DeepSeek). Other arguments could bend the prompt behind the record's back."""
_NOT_FOR_THE_ENGINE = frozenset({"store", "user", "metadata", "service_tier"})

_LARGE = 64 * 1024
"""Bytes beyond which a body is checked beside the event loop: half a MiB of schemas takes up to 0.2 s."""

_BEHIND = 10 * MOST_PRIORITY
"""Priority of what nobody waits for. vLLM serves lower numbers first; live traffic has its keys', 0 unless the operator
says otherwise."""


@dataclass(frozen=True)
class Restrict:
    """Checks what the chain and the engine rely on, and keeps only what callers may set."""

    app: ASGIApp
    bounds: Bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        ours = call.evaluation or call.behalf is not None
        check = partial(restrict, call.path, call.body, self.bounds, ours)
        call.body = check() if len(call.raw) < _LARGE else await asyncio.to_thread(check)
        await self.app(scope, receive, send)


def restrict(path: str, body: dict[str, Any], given: Bounds, ours: bool = False) -> dict[str, Any]:
    """The body without what callers must not set. Raises `Refusal` for what the chain cannot route or record, and for
    what is too much. `ours`: the cluster itself asks."""
    bounds.check(body, given)
    allowed = ALLOWED[path] | _OURS if ours else ALLOWED[path]
    kept = {name: value for name, value in body.items() if name in allowed and value is not None}
    model = kept.get("model")
    require(isinstance(model, str) and 0 < len(model) <= 256, "model", "must be the name of a model, as a string")
    for name in ("stream", "store"):
        require(isinstance(kept.get(name, False), bool), name, "must be true or false")
    require(isinstance(kept.get("stream_options", {}), dict), "stream_options", "must be an object")
    match path:
        case "/v1/chat/completions":
            require(
                kept.get("messages") and _objects(kept["messages"]),
                "messages",
                "must be a list of messages, not empty",
            )
        case "/v1/completions":
            require(
                isinstance(kept.get("prompt"), str),
                "prompt",
                "must be one string; send several prompts as several requests",
            )
        case "/v1/responses":
            asked = kept.get("input")
            require(isinstance(asked, str) or _objects(asked), "input", "must be a string or a list of items")
            for name in ("previous_response_id", "background"):
                require(not kept.pop(name, None), name, "is not supported; send the whole conversation as `input`")
    if "chat_template_kwargs" in kept:
        switches = kept["chat_template_kwargs"]
        require(isinstance(switches, dict), "chat_template_kwargs", "must be an object")
        kept["chat_template_kwargs"] = {k: bool(v) for k, v in switches.items() if k in _TEMPLATE_SWITCHES}
    grammars.check(kept, given)
    return kept


def engine_body(call: Call, served: str) -> dict[str, Any]:
    """What the engine gets: its own name of the version, our priority, and a demand for usage in every stream."""
    body = {name: value for name, value in call.body.items() if name not in _NOT_FOR_THE_ENGINE}
    body |= {
        "model": served,
        "priority": _BEHIND if call.evaluation or call.shadow_of else call.principal.priority,
    }
    if "structured_outputs" in body:
        body["structured_outputs"] = grammars.as_automaton(body["structured_outputs"])
    if call.path == RESPONSES:
        body["request_id"] = f"resp_{call.request_id}"  # becomes the answer's `id`; chat takes the header
    elif body.get("stream"):
        body["stream_options"] = {**body.get("stream_options", {}), "include_usage": True}
    return body


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
