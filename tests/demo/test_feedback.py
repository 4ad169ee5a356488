import json
import random

import pytest

from demo.feedback import Dilution, Opinion, message, opinion
from demo.traffic import Wish

MEANT, OTHER = Wish("play 1959", "Play", {"year": "1959"}), Wish("rate it", "Rate", {"score": "5"})
N = 20_000


def opinions(dilution: Dilution, right: bool) -> list[Opinion]:
    found = (opinion(MEANT, right, OTHER, dilution, random.Random(seed)) for seed in range(N))
    return [thought for thought in found if thought]


def test_full_feedback_scores_every_answer_and_corrects_every_wrong_one() -> None:
    assert set(map(str, opinions(Dilution(), right=True))) == {str(Opinion(1.0, None, False))}
    assert set(map(str, opinions(Dilution(), right=False))) == {str(Opinion(0.0, message(MEANT), False))}


@pytest.mark.parametrize("right", [True, False])
def test_diluted_feedback_keeps_its_three_rates(right: bool) -> None:
    given = opinions(Dilution.parse("0.2,0.5,0.05"), right)
    assert len(given) / N == pytest.approx(0.2, abs=0.01)
    assert sum(thought.wrong for thought in given) / len(given) == pytest.approx(0.05, abs=0.015)
    of_wrong_answers = [thought for thought in given if thought.wrong == right]
    without = sum(thought.correction is None for thought in of_wrong_answers) / len(of_wrong_answers)
    assert without == pytest.approx(0.5, abs=0.1 if right else 0.03)


def test_wrong_feedback_praises_wrong_answers_and_corrects_right_ones_to_something_else() -> None:
    praised, miscorrected = Opinion(1.0, None, True), Opinion(0.0, message(OTHER), True)
    assert set(map(str, opinions(Dilution(wrong=1.0), right=True))) == {str(miscorrected)}
    assert set(map(str, opinions(Dilution(wrong=1.0), right=False))) == {str(praised), str(miscorrected)}


def test_who_speaks_does_not_depend_on_whether_the_answer_was_right() -> None:
    dilution = Dilution(rate=0.3)
    spoke = [[bool(opinion(MEANT, right, OTHER, dilution, random.Random(s))) for s in range(200)] for right in (0, 1)]
    assert spoke[0] == spoke[1]


def test_correction_is_an_assistant_message_in_openai_form() -> None:
    call = message(MEANT)["tool_calls"][0]
    assert message(MEANT)["role"] == "assistant" and call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == MEANT.arguments


@pytest.mark.parametrize("text", ["", "x", "2", "0.5,-1", "0.1,0.2,0.3,0.4", "nan"])
def test_feedback_option_that_is_no_three_shares_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 0\.2,0\.5,0\.05"):
        Dilution.parse(text)


def test_shares_that_are_left_out_mean_none() -> None:
    assert Dilution.parse("0.4") == Dilution(0.4, 0.0, 0.0)
