"""Ways to share a training between workers, on real gloo, FSDP2 and DeepSpeed: all of them take the same steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.artifacts import Dataset
from pipelines.recipe import TrainingSettings
from pipelines.train import Outcome, fit
from tests.pipelines.training import QUICK, job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(900)]

SHARED = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
CLOSE = 1e-4
"""Losses lie between 1 and 7; sums in another order differ in the last bits of fp32."""


@dataclass(frozen=True)
class Trained:
    outcome: Outcome
    folder: Path


def whole(**changes: object) -> TrainingSettings:
    """All weights in fp32: what is shared out is then everything."""
    same = {"weights": "full", "precision": "fp32", "learning_rate": 1e-3, "max_steps": 5, "batch_tokens": 1600}
    return QUICK.model_copy(update={**same, **changes})


@pytest.fixture(scope="module")
def trained(
    dataset: Dataset, models: dict[str, Path], local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    """The same recipe by one worker, and by two in each of the ways."""
    settings = {"alone": whole(), **{name: whole(workers=2, parallel=name) for name in SHARED}}
    # No step is too small to show whether weights come out as they went in; these are too small to change any.
    settings["still"] = whole(workers=2, parallel="zero3", learning_rate=1e-30, max_steps=1)
    made = {}
    for name, training in settings.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = Trained(fit(job(dataset, models["llama"], training), folder / "work", folder), folder)
    return made


@pytest.mark.parametrize("name", SHARED)
def test_two_workers_learn_what_one_does(name: str, trained: dict[str, Trained]) -> None:
    alone, shared = (trained[each].outcome for each in ("alone", name))
    assert [entry["step"] for entry in shared.history][-1] == 5
    assert shared.history[-1]["loss"] < shared.history[0]["loss"]
    assert shared.history[0]["loss"] == pytest.approx(alone.history[0]["loss"], abs=CLOSE)
    assert shared.history[-1]["learning_rate"] == alone.history[-1]["learning_rate"]
    assert weights(trained[name]).keys() == weights(trained["alone"]).keys()
    for key, value in weights(trained["alone"]).items():
        assert (weights(trained[name])[key] - value).abs().max() < CLOSE, key


def test_what_zero3_gathers_is_bit_for_bit_what_it_shared_out(
    trained: dict[str, Trained], models: dict[str, Path]
) -> None:
    from safetensors.torch import load_file

    before, after = load_file(models["llama"] / "model.safetensors"), weights(trained["still"])
    assert before.keys() == after.keys()
    assert all(before[key].dtype == after[key].dtype and before[key].equal(after[key]) for key in before)


def weights(one: Trained) -> dict:
    from safetensors.torch import load_file

    return load_file(one.folder / "model.safetensors")
