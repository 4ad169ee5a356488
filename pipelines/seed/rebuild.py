"""The rebuild of the seed model as a Ray Train job: one worker here, as many as there are machines elsewhere."""

from __future__ import annotations

from pathlib import Path

from pipelines.seed.card import write_card
from pipelines.seed.pretrain import HERE, Recipe, make_tokenizer, train_loop
from pipelines.train import WORKER_ENVIRONMENT


def rebuild(
    out: Path, recipe: Path | None = None, steps: int | None = None, workers: int = 1, resume: bool = False
) -> Path:
    """Pre-train into `out` (tokenizer, bf16 weights, `curve.json`) and return it.

    `steps` cuts the run short on the full run's schedule. With several workers `out` has to be on a disk that all
    share. Raises `ValueError` for a recipe that does not fit.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = Recipe.load(recipe or HERE / "recipe.yaml")
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (resume and (out / "tokenizer.json").exists()):
        make_tokenizer(settings, out)
    stop = min(steps or settings.all_steps, settings.all_steps)
    config = {
        "recipe": settings.model_dump(),
        "out": str(out),
        "stop": stop,
        "report_every": 10,
        "save_every": 50,
        "resume": resume,
    }
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Ray Train V1
            name="seed",
            storage_path=str(out / "runs"),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    trainer.fit()
    if stop == settings.all_steps:
        write_card(out, settings)
    return out
