"""Documents as passages: paragraphs together as long as they fit, long ones cut at the ends of sentences."""

from __future__ import annotations

import re

_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCES = re.compile(r"(?<=[.!?。！？])\s+|\n")


def split(text: str, characters: int) -> list[str]:
    """Passages of at most `characters`, in order. Every word of the text is in one of them."""
    passages: list[str] = []
    for paragraph in filter(None, (each.strip() for each in _PARAGRAPHS.split(text))):
        if passages and len(passages[-1]) + len(paragraph) + 2 <= characters:
            passages[-1] += "\n\n" + paragraph
        elif len(paragraph) <= characters:
            passages.append(paragraph)
        else:
            passages += _cut(paragraph, characters)
    return passages


def _cut(paragraph: str, characters: int) -> list[str]:
    """A long paragraph: whole sentences together, and a sentence that is too long at its words."""
    parts: list[str] = []
    for sentence in filter(None, (each.strip() for each in _SENTENCES.split(paragraph))):
        while len(sentence) > characters:
            end = sentence.rfind(" ", 1, characters + 1)
            end = end if end > 0 else characters
            parts.append(sentence[:end])
            sentence = sentence[end:].lstrip()
        if parts and sentence and len(parts[-1]) + len(sentence) + 1 <= characters:
            parts[-1] += " " + sentence
        elif sentence:
            parts.append(sentence)
    return parts
