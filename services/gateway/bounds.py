"""How much a caller may say, and what only the operator may: counts, sizes, media, templates."""

from __future__ import annotations

from typing import Any

from cluster.settings import Strict
from services.gateway.errors import Refusal


class Bounds(Strict):
    """What settings say about one request."""

    choices: int = 8
    tokens: int | None = None
    grammar_bytes: int = 64 * 1024
    grammar_steps: int = 2000
    caller_grammars: bool = False


MOST_MESSAGES = 2048
"""Messages, or items of `input`."""
MOST_TOOLS = 128
MOST_STOPS, MOST_STOP_CHARACTERS = 4, 256
"""The engine looks for each of them after each token."""
MOST_STOP_TOKENS = 128
MOST_BIASES = 1024

NOT_FOR_CALLERS = {
    "chat_template": "is a program that the engine would run; the model's own is used",
    "mm_processor_kwargs": "changes what the processing of media may cost; it is the operator's to set",
    "media_io_kwargs": "changes what the loading of media may cost; it is the operator's to set",
    "prompt_embeds": "is a serialized tensor, and those are not loaded for callers",
    "logits_processors": "names code; none is loaded for callers",
    "lora_path": "names a file; versions are addressed by `model`",
    "kv_transfer_params": "reaches into caches of the engine",
    "ec_transfer_params": "reaches into caches of the engine",
}
"""Refused instead of dropped: who sends these counts on an effect."""

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text"})
_MEDIA = {
    "image_url": "image_url", "input_image": "image_url", "audio_url": "audio_url", "video_url": "video_url",
    "input_audio": "input_audio",
}  # fmt: skip
"""Parts with media: type, and where it is."""
_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})
"""Items of a Responses input. The others name things that are kept elsewhere, or tools that a server would run."""


def require(holds: object, param: str, message: str) -> None:
    """Raises a `Refusal` that names the parameter unless something holds."""
    if not holds:
        raise Refusal(400, f"`{param}` {message}", code="invalid_value", param=param)


def check(body: dict[str, Any], bounds: Bounds) -> None:
    """Raises `Refusal` for what is too much, and for what is not the caller's to say."""
    for name, reason in NOT_FOR_CALLERS.items():
        require(body.get(name) is None, name, reason)
    _numbers(body, bounds)
    _stops(body)
    _tools(body.get("tools"))
    _conversation("messages", body.get("messages"))
    _conversation("input", body.get("input"))
    switches = body.get("chat_template_kwargs")
    require(
        not (isinstance(switches, dict) and "chat_template" in switches),
        "chat_template_kwargs",
        "must not hold `chat_template`: the model's own is used",
    )


def _numbers(body: dict[str, Any], bounds: Bounds) -> None:
    choices = body.get("n")
    require(
        choices is None or (type(choices) is int and 1 <= choices <= bounds.choices),
        "n",
        f"must be a number from 1 to {bounds.choices}",
    )
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        value = body.get(name)
        require(value is None or (type(value) is int and value >= 0), name, "must be a whole number")
        if bounds.tokens is not None and value is not None:
            require(value <= bounds.tokens, name, f"must be at most {bounds.tokens:,} here")
    biases = body.get("logit_bias")
    require(
        not isinstance(biases, dict) or len(biases) <= MOST_BIASES,
        "logit_bias",
        f"must have at most {MOST_BIASES:,} entries",
    )


def _stops(body: dict[str, Any]) -> None:
    stops = body.get("stop")
    given = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    require(len(given) <= MOST_STOPS, "stop", f"must be at most {MOST_STOPS} strings")
    require(
        all(isinstance(stop, str) and len(stop) <= MOST_STOP_CHARACTERS for stop in given),
        "stop",
        f"must be strings of at most {MOST_STOP_CHARACTERS} characters",
    )
    tokens = body.get("stop_token_ids")
    require(
        not isinstance(tokens, list) or len(tokens) <= MOST_STOP_TOKENS,
        "stop_token_ids",
        f"must be at most {MOST_STOP_TOKENS} numbers",
    )


def _tools(tools: Any) -> None:
    if tools is None:
        return
    require(_objects(tools), "tools", "must be a list of objects")
    require(len(tools) <= MOST_TOOLS, "tools", f"must be at most {MOST_TOOLS}")
    require(
        all(tool.get("type", "function") == "function" for tool in tools),
        "tools",
        "can only be functions: the caller runs them, this cluster reaches out to nobody for a caller",
    )


def _conversation(param: str, given: Any) -> None:
    if not isinstance(given, list):
        return
    require(len(given) <= MOST_MESSAGES, param, f"must be at most {MOST_MESSAGES:,}")
    for item in given:
        if not isinstance(item, dict):
            continue  # whose type is wrong is told elsewhere
        if param == "input":
            kind = str(item.get("type", "message"))
            require(kind in _ITEMS, param, f"can have no item of the type `{kind}`; send {', '.join(sorted(_ITEMS))}")
        for name in ("content", "output", "summary"):
            _parts(param, item.get(name))


def _parts(param: str, parts: Any) -> None:
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str):
            continue
        require(isinstance(part, dict), param, "must have content that is text or a list of parts")
        kind = str(part.get("type"))
        require("uuid" not in part, param, "must not name media by `uuid`: the engine would look in what others sent")
        if kind in _MEDIA:
            _inline(param, kind, part.get(_MEDIA[kind]))
        else:
            known = ", ".join(sorted(_TEXTS | _MEDIA.keys()))
            require(kind in _TEXTS, param, f"can have no part of the type `{kind}`; send {known}")


def _inline(param: str, kind: str, media: Any) -> None:
    """Media comes with the request. What an address would fetch, and from where, the cluster's network would decide."""
    if kind == "input_audio":
        require(isinstance(media, dict) and isinstance(media.get("data"), str), param, "must have `input_audio.data`")
        return
    address = media.get("url") if isinstance(media, dict) else media
    require(
        isinstance(address, str) and address.startswith("data:"),
        param,
        f"can have `{kind}` only as a `data:` URL; nothing is fetched for a caller",
    )


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
