"""The seed model's tokenizer: byte-level BPE in which a word has the same tokens wherever it stands.

Copying "blue heron" from a request into `"colour": "blue heron"` is one rule for the model (what followed this token
there?) only if both places have the same tokens. So spaces, `_`, digits, punctuation and the humps of camelCase are cut
off before BPE, and the fixed pieces of a call in the hermes form are one token each, which keeps answers short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipelines.seed.corpus import Scene
from pipelines.seed.words import COMMON, SCHEMA

SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>")
TAGS = ("<tool_call>", "</tool_call>")
"""Not special: the parser has to see them in the decoded text."""
GLUE = ('\n{"name": "', '", "arguments": {"', '", "arguments": {}}\n', '": "', '", "', '"}}\n', ")\n", ", ")
"""The fixed pieces of `<tool_call>\\n{"name": "N", "arguments": {"P": "V"}}\\n</tool_call>`, and of the tools block."""
BLOCK, HIGH = "({}[]|.+*?^$\\", "\\"


def _escape(text: str) -> str:
    return "".join(HIGH + c if c in BLOCK else c for c in text)


WORDS = "|".join(
    (
        *(_escape(g) for g in sorted(GLUE[:6], key=len, reverse=True)),
        r"\)\n(?![ \t])",
        r", (?=[\p{L}_])",
        r"\p{Lu}?\p{Ll}[\p{Ll}\p{M}]*",
        r"\p{Lu}+(?!\p{Ll})",
        r"\p{Lu}",
        r"[\p{Lo}\p{Lm}\p{Lt}\p{M}]+",
        r"\p{N}{1,4}",
        r" ",
        r"[^\p{L}\p{N}\p{M}]",
    )
)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def texts_of(scene: Scene) -> Iterator[str]:
    """Everything in a scene that a model reads or writes."""
    for tool in scene.tools:
        yield f"{tool['function']['name']}({', '.join(tool['function']['parameters']['properties'])})\n"
    for message in (m for conversation in scene.conversations for m in conversation):
        yield message.get("content") or ""
        for call in message.get("tool_calls", ()):
            yield json.dumps(call["function"]["arguments"], ensure_ascii=False)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges from `texts`; then make room for what must be one token, the glue and every listed word.

    `ignore_merges` lets a cut piece that is in the vocabulary be that token, whatever the merges would make of it.
    """
    words = dict.fromkeys(SCHEMA + COMMON)
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte])
    whole = [*GLUE, *words]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = cut
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIAL) - len(TAGS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = json.loads(learner.to_str())["model"]
    reserved = len(SPECIAL) + len(TAGS)
    as_bytes = [byte.pre_tokenize_str(w)[0][0] for w in whole]
    alphabet = [t for t, _ in sorted(model["vocab"].items(), key=lambda kv: kv[1]) if len(t) == 1]
    keep = dict.fromkeys([*alphabet, *as_bytes])
    merges = []
    for left, right in model["merges"]:
        if len(keep) >= vocab_size - reserved and left + right not in keep:
            continue
        if left in keep and right in keep:
            keep.setdefault(left + right)
            merges.append((left, right))
    built = Tokenizer(
        models.BPE(
            vocab={t: i + len(SPECIAL) + len(TAGS) for i, t in enumerate(keep)}, merges=merges, ignore_merges=True
        )
    )
    built.pre_tokenizer, built.decoder = cut, decoders.ByteLevel()
    return built


def wrap(core: Tokenizer) -> PreTrainedTokenizerFast:
    """Give a trained core its control tokens (ids 0 to 9) and the chat template."""
    state = json.loads(core.to_str())
    state["model"]["vocab"] = {**{t: i for i, t in enumerate((*SPECIAL, *TAGS))}, **state["model"]["vocab"]}
    core = Tokenizer.from_str(json.dumps(state))
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE.read_text(),
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
