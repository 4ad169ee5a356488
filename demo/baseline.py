"""Multinomial naive Bayes on words: how far the tool's name alone can be guessed. It fills in no argument."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

from demo.traffic import Wish


class NaiveBayes:
    """Laplace-smoothed (Manning, Raghavan, Schütze: Introduction to Information Retrieval, section 13.2)."""

    def __init__(self, train: list[Wish]) -> None:
        self._rows = Counter(wish.tool for wish in train)
        self._words: dict[str, Counter[str]] = defaultdict(Counter)
        for wish in train:
            self._words[wish.tool].update(words(wish.text))
        self._vocabulary = len(set().union(*self._words.values()))
        self._totals = {tool: counts.total() for tool, counts in self._words.items()}

    def tool(self, text: str) -> str:
        return max(self._rows, key=lambda tool: self._log_joint(tool, words(text)))

    def accuracy(self, wishes: list[Wish]) -> float:
        return sum(self.tool(wish.text) == wish.tool for wish in wishes) / len(wishes)

    def _log_joint(self, tool: str, found: list[str]) -> float:
        counts, total = self._words[tool], self._totals[tool] + self._vocabulary
        return math.log(self._rows[tool]) + sum(math.log((counts[word] + 1) / total) for word in found)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
