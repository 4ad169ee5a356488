from __future__ import annotations

import numpy as np
import pytest

from pipelines.duplicates import Index, common, shingles, signature, similarity


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


def test_index_finds_what_comparing_all_pairs_finds() -> None:
    cities = ["Oslo", "Lima", "Cairo", "Quito", "Hanoi", "Perth"]
    days = ["today", "tomorrow", "tomorrow morning", "on Monday", "on monday", "next week"]
    texts = [f"what will the weather be like in {city} {day}" for city in cities for day in days]
    signatures = [signature(text) for text in texts]
    for threshold in (0.5, 0.7, 0.85, 0.95, 1.0):
        index = Index(threshold)
        found = []
        for place, one in enumerate(signatures):
            found.append(index.find(one))
            index.add(place, one)
        expected = [
            [other for other in range(place) if similarity(one, signatures[other]) >= threshold]
            for place, one in enumerate(signatures)
        ]
        missed = sum(len(want) - len(got) for want, got in zip(expected, found, strict=True))
        assert all(set(got) <= set(want) for want, got in zip(expected, found, strict=True))
        assert missed <= 0.01 * sum(map(len, expected)) + 1


def test_an_index_grows_beyond_its_first_room() -> None:
    index = Index(0.85)
    for number in range(600):
        index.add(number, signature(f"{number * 7919} is the number of this text {number * 104729}"))
    assert 555 in index.find(signature(f"{555 * 7919} is the number of this text {555 * 104729}"))


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
