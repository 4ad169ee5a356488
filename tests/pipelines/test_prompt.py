"""A row trains on the tokens that the engine would read and write for it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pipelines import prompt
from pipelines.artifacts import Row
from pipelines.packing import IGNORE
from pipelines.seed.corpus import scenes
from pipelines.seed.pretrain import WEIGHTS, encode_scene
from tests.e2e import tiny_qwen

PAINT = {
    # As clients write it: keys in an order of their own, no description, a note that no engine knows.
    "function": {
        "parameters": {"type": "object", "properties": {"colour": {"type": "string"}, "what": {"type": "string"}}},
        "x-owner": "house",
        "name": "paint",
    },
    "type": "function",
}
STRICT = {"type": "function", "function": {"name": "stop", "description": "Stop.", "strict": True}}


def called(arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "paint", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


ASKED = {"role": "user", "content": "paint it red"}
TALK = [
    {"role": "system", "content": "You paint."},
    ASKED,
    called('{"what": "door", "colour": "red"}'),
    {"role": "tool", "tool_call_id": "c", "content": "done"},
    {"role": "assistant", "content": "It is red.", "tool_calls": []},
    {"role": "user", "content": [{"type": "text", "text": "and now"}, {"type": "text", "text": "blue"}]},
    called('{"colour": "blue"}'),
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(WEIGHTS)


def test_arguments_may_be_strings_or_objects(tokenizer):
    given = prompt.encode(tokenizer, [ASKED, called('{"colour": "red"}')], [PAINT])
    assert prompt.encode(tokenizer, [ASKED, called({"colour": "red"})], [PAINT]) == given
    assert tokenizer.decode(given.answer_ids).endswith('"arguments": {"colour": "red"}}\n</tool_call><|end|>')


def test_encoding_agrees_with_the_fast_way_of_pre_training(tokenizer):
    for scene in islice(scenes(6), 20):
        slow = [prompt.encode(tokenizer, row["messages"], row["tools"]) for row in scene.rows()]
        assert encode_scene(tokenizer, scene) == slow


def test_a_template_that_rewrites_history_is_named(tokenizer):
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.role }}{% endfor %}"
        with pytest.raises(ValueError, match="prefix of the conversation"):
            prompt.encode(tokenizer, [ASKED, called({})], [PAINT])
    finally:
        tokenizer.chat_template = template
    with pytest.raises(ValueError, match="last message"):
        prompt.encode(tokenizer, [ASKED], [PAINT])


def test_a_templates_switches_are_those_of_the_request(tokenizer):
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ enable_thinking }}|{% for m in messages %}{{ m.content }}|{% endfor %}"
        talk = [ASKED, {"role": "assistant", "content": "yes"}]
        quiet = prompt.encode(tokenizer, talk, [], {"enable_thinking": False})
        assert tokenizer.decode(quiet.prompt_ids).startswith("False|")
    finally:
        tokenizer.chat_template = template


@pytest.mark.ray  # importing vLLM takes as long as the fast tests may
@pytest.mark.parametrize("model", ["seed", "qwen"])
def test_the_prompt_is_the_one_that_vllm_renders(model: str, tmp_path: Path):
    from transformers import AutoTokenizer
    from vllm.config import ModelConfig
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.chat_utils import parse_chat_messages
    from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template

    folder = str(WEIGHTS if model == "seed" else tiny_qwen.build(tmp_path / "qwen"))
    tokenizer, config = AutoTokenizer.from_pretrained(folder), ModelConfig(folder)
    told = {"role": "developer", "content": "Be brief."}
    for turns in (
        TALK,
        TALK[:3],
        TALK[1:3],
        [*TALK[:-1], {"role": "assistant", "content": "No."}],
        [told, *TALK[1:3]],
        [TALK[0], told, *TALK[1:3]],
        [ASKED, told, called({})],
    ):
        for tools in ([PAINT, STRICT], [PAINT], []):
            body = {"messages": turns[:-1], "tools": tools or None}
            request = ChatCompletionRequest.model_validate(body)
            offered = [tool.model_dump() for tool in request.tools] if request.tools else None
            form = resolve_chat_template_content_format(None, offered, "auto", tokenizer, model_config=config)
            said, *_ = parse_chat_messages(request.messages, config, content_format=form)
            served = safe_apply_chat_template(
                config, tokenizer, said, tools=offered, tokenize=True, add_generation_prompt=True
            )
            assert prompt.encode(tokenizer, turns, tools).prompt_ids == served


RUN = [
    {"role": "system", "content": "You paint."},
    ASKED,
    {**called('{"what": "door"}'), "weight": 1},
    {"role": "tool", "tool_call_id": "c", "content": "which colour?"},
    {"role": "assistant", "content": "I guess red."},
    {"role": "user", "content": "yes"},
    {**called('{"colour": "red"}'), "weight": 1},
    {"role": "tool", "tool_call_id": "c", "content": "done"},
    {"role": "assistant", "content": "It is red."},
]


def run_row(messages: list[dict[str, Any]] = RUN) -> Row:
    return Row("run-1", messages, [PAINT], [], "run", "s", "agent:painter")


@pytest.mark.parametrize("model", ["seed", "qwen"])
def test_a_run_learns_each_turn_in_the_tokens_of_its_own_request(model: str, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS if model == "seed" else tiny_qwen.build(tmp_path / "qwen"))
    [example] = prompt.encode_turns(tokenizer, run_row())
    turns = [prompt.encode(tokenizer, RUN[: place + 1], [PAINT]) for place in (2, 6, 8)]
    assert example.row_id == "run-1" and example.prompt_ids == turns[0].prompt_ids
    # All of it is what the engine reads and writes in the last request ...
    assert example.prompt_ids + example.answer_ids == turns[-1].prompt_ids + turns[-1].answer_ids
    # ... and learnt is what it wrote, and nothing that it read.
    learnt = [token for token in example.labels if token != IGNORE]
    assert learnt == [token for turn in turns for token in turn.answer_ids]
    assert "which colour" not in tokenizer.decode(learnt) and "I guess" not in tokenizer.decode(learnt)


def test_a_template_that_drops_thoughts_gives_each_turn_an_example_of_its_own(tokenizer):
    template = tokenizer.chat_template
    forgets = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    try:
        tokenizer.chat_template = forgets
        examples = prompt.encode_turns(tokenizer, run_row())
        turns = [prompt.encode(tokenizer, RUN[: place + 1], [PAINT]) for place in (2, 6, 8)]
        assert [example.labels for example in examples] == [turn.answer_ids for turn in turns]
        assert [example.prompt_ids for example in examples] == [turn.prompt_ids for turn in turns]
    finally:
        tokenizer.chat_template = template


def test_of_a_run_that_is_too_long_the_turns_that_fit_are_kept(tokenizer):
    [whole] = prompt.encode_turns(tokenizer, run_row())
    first, *rest = prompt.encode_turns(tokenizer, run_row(), len(whole) - 1)
    assert first.prompt_ids == whole.prompt_ids and whole.answer_ids[: len(first.answer_ids)] == first.answer_ids
    assert len(first) < len(whole) and [len(example) for example in rest] == [len(whole)]


def test_a_row_of_one_answer_is_encoded_as_ever(tokenizer):
    row = Row("r", TALK, [PAINT], [], "log", "s", "paint")
    assert prompt.encode_turns(tokenizer, row) == [prompt.encode_row(tokenizer, row)]
