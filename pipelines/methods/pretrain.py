"""Pre-training on documents, from random weights or on top of a base: every token, given those before it.

Documents are packed one behind the other; none looks at another, and none's first token is learnt from another's last.
A document that is longer than a row may be is cut, and its parts are learnt by themselves.
"""

from __future__ import annotations

from typing import Any

from pipelines.artifacts import Row
from pipelines.methods import Task, Work
from pipelines.methods.sft import on_examples
from pipelines.packing import Example


def prepare(task: Task) -> Work:
    parts = [part for row in task.rows for part in encode(task.tokenizer, row, task.training.max_tokens)]
    return on_examples(task, parts)


def encode(tokenizer: Any, row: Row, max_tokens: int) -> list[Example]:
    """A document's tokens with the marks of its ends, in parts of at most `max_tokens`; the first token is given."""
    ids = tokenizer.encode(row.messages[0]["content"], add_special_tokens=False)
    first = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    last = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    whole = [*first, *ids, *last]
    parts = [whole[start : start + max_tokens] for start in range(0, len(whole), max_tokens)]
    return [Example(part[:1], part[1:], row.row_id) for part in parts if len(part) > 1]
