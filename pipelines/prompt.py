"""The tokens that a row trains on: those that the engine would read and write for the same request.

Templates print what they are given: Qwen's prints each tool as JSON. A description that the engine sees as null, or two
keys in another order, make another prompt than the one in which the version will have to answer. So a row is put into
the form in which vLLM hands requests to the template (its `ChatCompletionToolsParam` and `parse_chat_messages`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jinja2

from pipelines.artifacts import Row
from pipelines.packing import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALWAYS, IF_GIVEN = ("name", "description", "parameters"), ("strict", "defer_loading")
"""What vLLM keeps of a function, in its order."""


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row) -> Example:
    """A dataset's row. Raises as `encode` does."""
    example = encode(tokenizer, row.messages, row.tools, row.options.get("chat_template_kwargs"))
    return replace(example, row_id=row.row_id)


def encode_turns(tokenizer: PreTrainedTokenizerBase, row: Row, max_tokens: int | None = None) -> list[Example]:
    """A row with all of its turns that are learnt (`Row.learnt`), each in the tokens in which it was said.

    They are one example where the template keeps earlier turns as they were. Where it rewrites them (thoughts are
    dropped once they are history, say), or the example would be longer than `max_tokens`, the next turn begins another.
    Raises as `encode` does.
    """
    examples: list[Example] = []
    switches = row.options.get("chat_template_kwargs")
    for place in row.learnt:
        turn = encode(tokenizer, row.messages[: place + 1], row.tools, switches)
        before = examples[-1] if examples else turn
        whole = before.prompt_ids + before.answer_ids
        goes_on = examples and turn.prompt_ids[: len(whole)] == whole
        if not goes_on or (max_tokens and len(turn) > max_tokens):
            examples.append(replace(turn, row_id=row.row_id))
            continue
        heard, start = turn.prompt_ids[len(whole) :], len(before.answer_ids)
        answer_ids = before.answer_ids + heard + turn.answer_ids
        examples[-1] = replace(before, answer_ids=answer_ids, read=(*before.read, (start, start + len(heard))))
    return examples


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    switches: dict[str, Any] | None = None,
) -> Example:
    """Tokens of a conversation whose last message is the assistant's answer; `switches`: its `chat_template_kwargs`.

    Raises `ValueError` if the last message is not the assistant's, or if the template does not render the prompt as a
    prefix of the whole conversation.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise ValueError("the last message of a row must be the assistant's answer")
    said = _known_roles(tokenizer, [_message(message) for message in messages])
    if any(isinstance(message["content"], list) for message in said) and not _reads_parts(tokenizer):
        said = [{**message, "content": _joined(message["content"])} for message in said]
    options: dict[str, Any] = {"tools": _tools(tools) or None, "tokenize": False, **(switches or {})}
    prompt: Any = tokenizer.apply_chat_template(said[:-1], add_generation_prompt=True, **options)
    whole: Any = tokenizer.apply_chat_template(said, **options)
    if not whole.startswith(prompt) or whole == prompt:
        raise ValueError(
            "the chat template does not render the prompt as a prefix of the conversation "
            f"(prompt ends {prompt[-40:]!r}, there the conversation has {whole[max(len(prompt) - 40, 0) :][:60]!r}); "
            "use a template that keeps earlier turns as they were"
        )
    prompt_ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    whole_ids: list[int] = tokenizer.encode(whole, add_special_tokens=False)
    if whole_ids[: len(prompt_ids)] != prompt_ids:
        raise ValueError(
            "the tokenizer merges the prompt's last token with the answer; "
            "let the template end the prompt with a special token"
        )
    return Example(prompt_ids, whole_ids[len(prompt_ids) :])


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": _function(tool["function"])} for tool in tools if "function" in tool]


def _function(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given.get(name) for name in ALWAYS} | {name: given[name] for name in IF_GIVEN if name in given}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Calls carry `arguments` as a dict, and no content is empty content."""
    message = {**message, "content": message.get("content") or ""}
    message.pop("weight", None)
    calls = message.pop("tool_calls", None) or []
    if calls:
        message["tool_calls"] = [{**call, "function": _called(call["function"])} for call in calls]
    return message


def _known_roles(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A template that does not name developers gets their messages as the system's, all in one at the front."""
    template = str(tokenizer.chat_template)
    developers = any(message["role"] == "developer" for message in messages)
    if not developers or "'developer'" in template or '"developer"' in template:
        return messages
    rules = [{**message, "role": "system"} for message in messages if message["role"] in ("system", "developer")]
    others = [message for message in messages if message["role"] not in ("system", "developer")]
    if len(rules) > 1 or messages[0] is others[0]:
        rules = [{"role": "system", "content": "\n\n".join(filter(None, (_joined(r["content"]) for r in rules)))}]
    return [*rules, *others]


def _reads_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template looks into a message whose content is a list; the engine joins the parts if not."""
    probe: Any = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
    try:
        shown: Any = tokenizer.apply_chat_template(probe, tokenize=False)
    except (TypeError, jinja2.TemplateError):
        return False
    return "probe" in shown and "'text'" not in shown


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))


def _called(function: dict[str, Any]) -> dict[str, Any]:
    given = function.get("arguments") or {}
    return {**function, "arguments": json.loads(given) if isinstance(given, str) else given}
