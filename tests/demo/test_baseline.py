from pathlib import Path

import pytest

from demo import traffic
from demo.baseline import NaiveBayes
from demo.traffic import Wish

SNIPS = Path(__file__).parents[3] / "shared" / "data" / "snips"


def test_words_seen_with_a_tool_lead_to_it() -> None:
    model = NaiveBayes(
        [Wish("play a song", "Play", {}), Wish("play jazz", "Play", {}), Wish("book a table", "Book", {})]
    )
    assert model.tool("PLAY something") == "Play"
    assert model.tool("a table, please") == "Book"


def test_words_never_seen_fall_back_to_the_most_frequent_tool() -> None:
    assert NaiveBayes([Wish("a", "Rare", {}), Wish("b", "Common", {}), Wish("b", "Common", {})]).tool("zzz") == "Common"


@pytest.mark.skipif(not SNIPS.exists(), reason="no ../shared/data/snips beside this checkout")
def test_naive_bayes_finds_nearly_every_tool_of_snips() -> None:
    rows = traffic.read(SNIPS)
    assert NaiveBayes(rows.train[:4000]).accuracy(rows.validate) >= 0.97
