from __future__ import annotations

import numpy as np
import pytest

from pipelines.duplicates import bands, clear, common, distinct, near, shingles, signature, signatures, similarity


def jaccard(one: str, other: str) -> float:
    a, b = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(a & b) / len(a | b)


PAIRS = [
    ("What is the movie schedule?", "what is the movie schedules"),
    ("book a table for five people in Lyon tonight", "book a table for six people in Lyon tonight"),
    ("play some jazz", "will it rain in Oslo tomorrow"),
    ("a", "b"),
    ("", "   "),
    ("日本の天気を教えて", "日本の天気を教えてください"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_signatures_estimate_the_similarity_of_texts(one: str, other: str) -> None:
    # Four standard errors of 128 hashes.
    assert similarity(signature(one), signature(other)) == pytest.approx(jaccard(one, other), abs=4 * 0.044)


def test_case_and_punctuation_do_not_count() -> None:
    assert np.array_equal(signature("Play “Hurt”,  please!"), signature("play hurt please"))


def test_keys_find_what_comparing_all_pairs_finds() -> None:
    cities = ["Oslo", "Lima", "Cairo", "Quito", "Hanoi", "Perth"]
    days = ["today", "tomorrow", "tomorrow morning", "on Monday", "on monday", "next week"]
    minima = signatures([f"what will the weather be like in {city} {day}" for city in cities for day in days])
    for threshold in (0.5, 0.7, 0.85, 0.95, 1.0):
        found = {pair for rows, others in near(minima, minima, threshold) for pair in zip(rows, others, strict=True)}
        expected = {
            (one, other)
            for one in range(len(minima))
            for other in range(len(minima))
            if similarity(minima[one], minima[other]) >= threshold
        }
        assert found <= expected
        assert len(expected - found) <= 0.01 * len(expected) + 2


def test_rows_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    minima = signatures([f"{number * 7919} is the number of this text {number * 104729}" for number in range(600)])
    monkeypatch.setattr("pipelines.duplicates.BLOCK_ROWS", 70)
    assert np.flatnonzero(~clear(minima, minima[[3, 555]], 0.85)).tolist() == [3, 555]
    assert clear(minima, minima[:0], 0.85).all() and len(clear(minima[:0], minima, 0.85)) == 0


def test_a_row_goes_if_an_earlier_one_of_its_group_that_stays_is_near() -> None:
    texts = ["will it rain in Oslo tomorrow morning", "play some jazz", "Will it rain in Oslo tomorrow morning?"] * 2
    minima = signatures(texts)
    asked: list[int] = []

    def some(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return minima[rows]

    groups = np.array([0, 0, 0, 1, 1, 0])
    stays = distinct(bands(minima, 0.85), groups, some, 0.85)
    assert stays.tolist() == [True, True, False, True, True, False]
    assert asked == [0, 2, 5]  # the others met nobody of their group


def test_the_words_of_a_template_do_not_make_prompts_alike() -> None:
    frame = "You are reading a support ticket. Answer in one word with its category. The ticket says: {}. Thanks a lot."
    tickets = [
        f"{a} {b} {c}"
        for a in ("invoice", "login", "refund")
        for b in ("late", "lost", "wrong")
        for c in ("a", "b", "c")
    ]
    texts = [frame.format(ticket) for ticket in tickets]
    ignored = common(texts)
    assert similarity(signature(texts[0]), signature(texts[-1])) > 0.5
    assert similarity(signature(texts[0], ignored), signature(texts[-1], ignored)) < 0.3
    # A prompt that is nothing but the template is still compared.
    assert similarity(signature(frame, ignored), signature(frame, ignored)) == 1


def test_few_texts_have_no_template() -> None:
    assert common(["the same words", "the same words"]).size == 0
