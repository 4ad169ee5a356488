from __future__ import annotations

import pytest

from cluster.ids import mint, minted

KEY, OTHER = b"k" * 32, b"o" * 32


def test_an_id_is_known_by_arithmetic_alone() -> None:
    ids = {mint(KEY) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(minted(KEY, each) for each in ids)


def test_another_clusters_id_is_not_known() -> None:
    assert not minted(OTHER, mint(KEY))


def test_changing_any_character_makes_an_id_unknown() -> None:
    known = mint(KEY)
    for at, character in enumerate(known):
        other = "0" if character != "0" else "1"
        assert not minted(KEY, known[:at] + other + known[at + 1 :])


@pytest.mark.parametrize(
    "strange",
    ["", "req-", "req-" + "0" * 40, "req-" + "0" * 400, "chatcmpl-1", "req-é" + "0" * 39, "req-\ud800" + "0" * 39],
)
def test_whatever_a_caller_sends_is_only_unknown(strange: str) -> None:
    assert not minted(KEY, strange)
    assert not minted(KEY, mint(KEY) + "0")
    assert not minted(KEY, mint(KEY).upper())
