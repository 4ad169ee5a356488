"""A dataset becomes a version: Ray Train runs the loop in `trainer.py`, the registry takes the adapter in.

This half is light: it decides what is trained and where, and imports neither torch nor trl.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from cluster.client import Client
from cluster.priority import give_way
from cluster.records import Frozen, Lineage, Version
from cluster.registry import Registry
from cluster.settings import Settings
from pipelines.artifacts import Candidate, Dataset
from pipelines.evaluate import served
from pipelines.recipe import TrainingSettings
from pipelines.steps import Run, digest, manifest

CODE = 3
"""Raise it when the same rows and settings shall give another model."""
ATTEMPTS = 3
"""How often a worker that died is started again from its newest checkpoint."""
POLL_S = 0.5
"""How often Ray Train's controller asks its workers. They wait for it with each report, for 2 s if nothing is said."""
WORKER_ENVIRONMENT = {
    # Threads that wait for each other give way after a while. Spinning on, as is OpenMP's default, they fight with the
    # engine on the same cores: 64 tokens/s against 495, where both cores were busy several times over. Giving way at
    # once costs speed on quiet cores: 4,600 and 5,900 tokens/s with 2,000 spins, 6,200 and 6,500 with 100,000. This is
    # between the two, and was not measured itself.
    "GOMP_SPINCOUNT": "50000",
    # Ray Train's `print` writes every line twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Job(Frozen):
    """What a worker is told."""

    dataset: str
    base: str
    """Id of the base, as versions name it."""
    model: str
    """Where its weights are: a folder, or a Hugging Face id."""
    parent: str | None
    """Folder of the adapter to go on from."""
    training: TrainingSettings


class Outcome(Frozen):
    """What a worker says at its end."""

    metrics: dict[str, float] = {}
    history: list[dict[str, float]] = []
    """Loss, learning rate and speed, every few seconds."""
    failure: str | None = None
    """Why trying again would not help."""


def train(run: Run, dataset: Dataset) -> Candidate:
    """Tune the alias's base on the dataset and register the result. Raises `ValueError` if the loss runs away."""
    registry, settings = Registry(run.settings), run.recipe.training
    for version in registry.versions(run.recipe.alias):
        # A cycle that was killed after training finds its version, whoever is the champion by now.
        of = version.lineage
        if of and (of.cycle, of.dataset_digest) == (run.record.id, dataset.digest):
            return Candidate(version, of.metrics)
    with Client(run.settings) as client:
        alias = served(client, run.recipe.alias)
    champion = registry.get(alias["champion"])
    model = settings.model or served_model(run.settings, alias["base"])
    job = Job(
        dataset=str(dataset.path),
        base=alias["base"],
        model=resolve(model),
        parent=_start(registry, champion, alias["base"], settings),
        training=settings,
    )
    inputs = {
        "code": CODE,
        "dataset": dataset.digest,
        "base": alias["base"],
        "model": _fingerprint(job.model),
        "parent": champion.id if job.parent else None,
        "training": settings.model_dump(mode="json", exclude={"checkpoint_every_s"}),
    }
    # Outside the step's folder, which is emptied when a killed step begins anew.
    work = run.folder / f"train-{digest(inputs)[:16]}"

    def make(folder: Path) -> dict[str, Any]:
        outcome = fit(job, work, folder)
        return {"metrics": outcome.metrics, "history": outcome.history}

    folder = run.step("train", inputs, make)
    shutil.rmtree(work, ignore_errors=True)
    return _register(run, registry, dataset, champion, job, folder)


def fit(job: Job, work: Path, folder: Path) -> Outcome:
    """Train under Ray Train, from the newest checkpoint in `work` if there is one; the adapter's files go to `folder`.

    Raises `ValueError` if the loss or a weight stops being a number, or if there is nothing to train on.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    if len(ray.nodes()) == 1:
        # It tells workers that another machine is about to go. On a machine alone it is a process for nothing.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    settings = job.training
    free = ray.available_resources().get("GPU", 0) >= settings.workers
    use_gpu = settings.device == "gpu" or (settings.device == "auto" and free)
    trainer = TorchTrainer(
        _loop,  # type: ignore[arg-type]  # Ray Train V2 hands on what the loop returns
        train_loop_config=job.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=use_gpu,
            # Workers on CPUs share a machine's cores, so each gets one of its own as long as there are; those on GPUs
            # do better where nothing lies between them.
            placement_strategy="PACK" if use_gpu else "SPREAD",
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Ray Train V1
            name=work.name,
            storage_path=str(work.parent),
            failure_config=FailureConfig(max_failures=ATTEMPTS - 1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),  # its own line for each report would drown ours
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT | ({} if use_gpu else allocator())},
        ),
    )
    result = trainer.fit()
    outcome = Outcome.model_validate(result.return_value)  # type: ignore[attr-defined]
    if outcome.failure:
        raise ValueError(f"training failed: {outcome.failure}")
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as final:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(Path(final) / file, folder / file)
    return outcome


def allocator() -> dict[str, str]:
    """Environment that gives a worker on CPUs jemalloc, of which Ray brings a build along.

    A step allocates tensors of ever other sizes, and glibc spent a fifth of it looking for room (`perf`, 1,400 tokens a
    step): 0.42 s a step against 0.33. An allocator that somebody has preloaded already stays.
    """
    import ray

    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    return {"LD_PRELOAD": str(library)} if library.is_file() and "LD_PRELOAD" not in os.environ else {}


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    from pipelines import trainer

    give_way()
    try:
        outcome = trainer.fit(Job.model_validate(config))
    except ValueError as error:
        # Returned, not raised: a worker that died is worth starting again, one that cannot do it is not.
        outcome = Outcome(failure=str(error))
    return outcome.model_dump(mode="json")


def served_model(settings: Settings, base: str) -> str:
    """Folder or Hugging Face id behind a base's id, from the Serve config that is deployed.

    Raises `ValueError` if no application serves that base.
    """
    if base == "seed":
        return base
    from cluster import deploy, head

    with deploy.Serve(settings.dashboard_url, head.token(settings)) as serve:
        applications = serve.details()["applications"].values()
    for application in applications:
        arguments = (application.get("deployed_app_config") or {}).get("args") or {}
        model = str(arguments.get("model", ""))
        if model and base in (arguments.get("name"), model, Path(model).name):
            return model
    raise ValueError(f"no application serves the base {base}; name its weights in the recipe, training.model")


def resolve(model: str) -> str:
    """Checked: a folder has safetensors weights. A Hugging Face id is taken as it is."""
    from cluster import models

    found = str(models.resolve(model))
    models.check_model(found)
    return found


def _start(registry: Registry, champion: Version, base: str, settings: TrainingSettings) -> str | None:
    fits = champion.form == "adapter" and champion.base == base and champion.rank == settings.rank
    return str(registry.folder(champion)) if settings.start == "parent" and fits else None


def _register(run: Run, registry: Registry, dataset: Dataset, champion: Version, job: Job, folder: Path) -> Candidate:
    made = manifest(folder)
    lineage = Lineage(
        cycle=run.record.id,
        rows=dataset.rows,
        replay_rows=dataset.replay_rows,
        table_version=dataset.table_version,
        dataset=str(dataset.path.relative_to(run.state)),
        dataset_digest=dataset.digest,
        recipe=run.record.recipe,
        recipe_digest=run.recipe.digest,
        code_revision=code_revision(),
        metrics=made["metrics"],
    )
    version = registry.create(
        name=run.recipe.alias,
        base=job.base,
        form="adapter",
        rank=job.training.rank,
        parent=champion.id,
        lineage=lineage,
        source_folder=folder,
    )
    parameters = {**job.training.model_dump(mode="json"), "base": job.base, "rows": dataset.rows}
    registry.mirror_version(version, registry.log_run(version.id, parameters, made["history"]))
    return Candidate(version, made["metrics"])


def code_revision() -> str:
    """The commit that runs, `+` if files were changed since; outside a checkout the package's version."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return package_version("trivium")
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout that belongs to somebody else
        return package_version("trivium")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def _fingerprint(model: str) -> Any:
    """What tells one set of weights from another without reading gigabytes: names, sizes, times. Of an id: the id."""
    files = sorted(Path(model).glob("*")) if Path(model).is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files] or model
