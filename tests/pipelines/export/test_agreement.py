from __future__ import annotations

import numpy as np
import pytest

from pipelines.export.agreement import Agreement, Merged

LOGITS = [np.array([[1.0, 2.0]]), np.array([[-8.0, 4.0], [3.0, 3.5]])]


def off_by(error: float) -> Agreement:
    return Agreement.of(LOGITS, [LOGITS[0], LOGITS[1] + np.array([[error, 0.0], [0.0, 0.0]])])


def test_figures_are_those_of_the_worst_place_and_of_all() -> None:
    assert off_by(0.6) == Agreement(
        difference=pytest.approx(0.6), typical=pytest.approx(0.6 / 6**0.5), largest=8.0, same=1.0, lengths=(1, 2)
    )
    assert Agreement.of(LOGITS, [LOGITS[0], LOGITS[1][:, ::-1]]).same == pytest.approx(1 / 3)


def test_rounding_in_fp32_passes_and_nothing_more() -> None:
    assert off_by(7e-4).exact("it", "stop").difference == pytest.approx(7e-4)
    with pytest.raises(ValueError, match=r"it gives other answers.* logits up to 8 differ by up to 0\.001"):
        off_by(9e-4 + 1e-4).exact("it", "stop")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_agrees_with_nothing(broken: float) -> None:
    with pytest.raises(ValueError, match="gives other answers"):
        off_by(broken).exact("it", "stop")
    with pytest.raises(ValueError, match="answer otherwise"):
        Merged("bfloat16", saved=off_by(broken), served=off_by(0.5)).close("stop")


def test_merged_weights_may_err_as_serving_in_their_precision_does() -> None:
    assert Merged("bfloat16", saved=off_by(0.9), served=off_by(0.5)).close("stop")
    with pytest.raises(ValueError, match=r"rounded to bfloat16, the merged weights answer otherwise.*stop"):
        Merged("bfloat16", saved=off_by(1.1), served=off_by(0.5)).close("stop")
    assert Merged("float32", saved=off_by(1e-5), served=off_by(0.0)).close("stop")
