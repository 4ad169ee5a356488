"""How much a caller may say, and what is not the caller's to say: refused in one sentence that names the parameter."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.bounds import (
    MOST_BIASES,
    MOST_MESSAGES,
    MOST_STOP_CHARACTERS,
    MOST_STOPS,
    MOST_TOOLS,
    NOT_FOR_CALLERS,
    Bounds,
    check,
)
from services.gateway.errors import Refusal

PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "f"}}


def refused(body: dict[str, Any], bounds: Bounds | None = None) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        check(body, bounds or Bounds())
    assert refusal.value.status == 400
    return refusal.value


def said(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, part]}]}


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("n", {"n": 16384}),
        ("n", {"n": 9}),
        ("n", {"n": "2"}),
        ("max_tokens", {"max_tokens": -1}),
        ("max_completion_tokens", {"max_completion_tokens": 2.5}),
        ("messages", {"messages": [{"role": "user", "content": "hi"}] * (MOST_MESSAGES + 1)}),
        ("input", {"input": [{"role": "user", "content": "hi"}] * (MOST_MESSAGES + 1)}),
        ("tools", {"tools": [TOOL] * (MOST_TOOLS + 1)}),
        ("tools", {"tools": [{"type": "mcp", "server_url": "https://example.com", "server_label": "x"}]}),
        ("tools", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        ("tools", {"tools": {}}),
        ("tools", {"tools": ["f"]}),
        ("stop", {"stop": ["a"] * (MOST_STOPS + 1)}),
        ("stop", {"stop": "a" * (MOST_STOP_CHARACTERS + 1)}),
        ("stop", {"stop": [1]}),
        ("stop_token_ids", {"stop_token_ids": list(range(1000))}),
        ("logit_bias", {"logit_bias": {str(n): 1 for n in range(MOST_BIASES + 1)}}),
        (
            "chat_template_kwargs",
            {"chat_template_kwargs": {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"}},
        ),
        *((name, {name: "x"}) for name in NOT_FOR_CALLERS),
    ],
)
def test_too_much_and_what_is_not_the_callers_is_refused_by_name(param: str, body: dict[str, Any]) -> None:
    assert refused(body).param == param


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/cat.png",
        "file:///etc/passwd",
        "s3://bucket/key",
        "/etc/passwd",
        " data:image/png;base64,AA",
        "DATA:image/png;base64,AA",
        "",
        None,
        {"url": 7},
    ],
)
def test_media_that_something_would_have_to_fetch_is_refused(address: Any) -> None:
    for kind in ("image_url", "audio_url", "video_url"):
        assert refused(said({"type": kind, kind: {"url": address}})).param == "messages"
        assert refused(said({"type": kind, kind: address})).param == "messages"
    item = {"role": "user", "content": [{"type": "input_image", "image_url": address}]}
    assert refused({"input": [item]}).param == "input"
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": address}]}
    assert refused({"input": [output]}).param == "input"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PIXEL}, "uuid": "what-another-caller-sent"},
        {"type": "text", "text": "x", "uuid": "u", "image_url": "http://example.com"},
        {"image_url": PIXEL},
        {"type": "image_embeds", "image_embeds": "gANjdG9yY2g="},
        {"type": "prompt_embeds", "data": "gANjdG9yY2g="},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_file", "file_url": "https://example.com/x.pdf"},
        {"type": ["text"]},
        7,
    ],
)
def test_parts_that_name_something_elsewhere_are_refused(part: Any) -> None:
    assert refused(said(part)).param == "messages"


@pytest.mark.parametrize("kind", ["item_reference", "mcp_call", "computer_call", "file_search_call", "shell_call"])
def test_items_of_other_peoples_tools_are_refused(kind: str) -> None:
    assert refused({"input": [{"type": kind, "id": "x"}]}).param == "input"


def test_what_clients_send_every_day_passes() -> None:
    check(
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}]},
            ],
            "tools": [TOOL] * MOST_TOOLS, "n": 8, "stop": ["\n"] * 4, "max_tokens": None, "logit_bias": {"1": -100},
            "stop_token_ids": [2], "chat_template_kwargs": {"enable_thinking": False}, "chat_template": None,
        },
        Bounds(),
    )  # fmt: skip
    check(
        {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]},
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "so"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "4"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            ],
            "tools": [{"type": "function", "name": "f"}],
        },
        Bounds(),
    )  # fmt: skip


def test_answers_are_as_long_as_the_settings_allow() -> None:
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        check({name: 100}, Bounds(tokens=100))
        assert refused({name: 101}, Bounds(tokens=100)).param == name
        check({name: 10**6}, Bounds())
