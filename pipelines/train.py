"""A dataset becomes a version: Ray Train runs the loop in `trainer.py`, the registry takes the weights in.

This half is light: it decides what is trained and where, and imports neither torch nor trl.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from cluster.client import Client
from cluster.head import Head
from cluster.priority import give_way
from cluster.records import Frozen, Lineage, Move, Version
from cluster.registry import Registry
from cluster.settings import Settings
from pipelines.artifacts import Candidate, Dataset
from pipelines.elastic import Elastic, Ground
from pipelines.evaluate import served
from pipelines.recipe import EvaluationSettings, TrainingSettings
from pipelines.steps import Run, digest, manifest

CODE = 4
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
    """Folder of the weights to go on from."""
    training: TrainingSettings
    storage: str = ""
    """Folder of the run's checkpoints, which all workers reach."""
    alias: str = "assistant"
    evaluation: EvaluationSettings = EvaluationSettings()
    """How a method that needs answers asks for them and scores them."""
    ground: Ground | None = None
    """Where it learns what serving needs; None: it has its machines for itself."""


class Outcome(Frozen):
    """What a worker says at its end."""

    metrics: dict[str, float] = {}
    history: list[dict[str, float]] = []
    """Loss, learning rate and speed, every few seconds."""
    failure: str | None = None
    """Why trying again would not help."""
    left: Move | None = None
    """Why it is not the end: the workers made way, and left a checkpoint."""


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
        alias=run.recipe.alias,
        evaluation=run.recipe.evaluation,
    )
    _check(job, run, dataset)
    inputs = {
        "code": CODE,
        "dataset": dataset.digest,
        "base": alias["base"],
        "model": _fingerprint(job.model),
        "parent": champion.id if job.parent else None,
        "training": settings.model_dump(mode="json", exclude={"checkpoint_every_s", "min_workers", "sharing"}),
        "evaluation": run.recipe.evaluation.model_dump(mode="json") if settings.method == "grpo" else None,
    }
    # Outside the step's folder, which is emptied when a killed step begins anew.
    work = run.folder / f"train-{digest(inputs)[:16]}"
    job = job.model_copy(update={"ground": Ground.of(run.settings, work)})

    def make(folder: Path) -> dict[str, Any]:
        outcome = fit(job, work, folder, lambda moves: run.update(moves=moves))
        return {"metrics": outcome.metrics, "history": outcome.history}

    folder = run.step("train", inputs, make)
    shutil.rmtree(work, ignore_errors=True)
    return _register(run, registry, dataset, champion, job, folder)


def fit(job: Job, work: Path, folder: Path, note: Callable[[list[Move]], None] = lambda _: None) -> Outcome:
    """Train under Ray Train, from the newest sound checkpoint in `work`, if any; the version's files go to `folder`.

    `note` is told how training made way for serving, all of it, whenever it has done so again. Raises `ValueError` if
    the loss or a weight stops being a number, if there is nothing to train on, or if workers died `ATTEMPTS` times:
    then it may be called again.
    """
    import ray
    from ray.exceptions import RayError
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    if len(ray.nodes()) == 1:
        # It tells workers that another machine is about to go. On a machine alone it is a process for nothing.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    settings = job.training
    free = ray.available_resources().get("GPU", 0) >= settings.workers
    use_gpu = settings.device == "gpu" or (settings.device == "auto" and free)
    told = job.model_copy(update={"storage": str(work)}).model_dump(mode="json")

    def attempt(workers: int) -> Any:
        trainer = TorchTrainer(
            _loop,  # type: ignore[arg-type]  # Ray Train V2 hands on what the loop returns
            train_loop_config=told,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                # Workers on CPUs share a machine's cores, so each gets one of its own as long as there are; those on
                # GPUs do better where nothing lies between them.
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
        return trainer.fit()

    try:
        if job.ground:
            elastic = Elastic(job.ground, settings, use_gpu, note)
            result = elastic.run(attempt, lambda result: Outcome.model_validate(result.return_value).left)
        else:
            result = attempt(settings.workers)
    except (TrainingFailedError, RayError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise ValueError(f"training failed ({cause}); run it again: it goes on from its newest checkpoint") from error
    outcome = Outcome.model_validate(result.return_value)
    if outcome.failure:
        raise ValueError(f"training failed: {outcome.failure}")
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as final:
        for file in sorted(Path(final).iterdir()):
            if not file.name.startswith(("seal-", "outcome")):
                shutil.copyfile(file, folder / file.name)
    return outcome


def _check(job: Job, run: Run, dataset: Dataset) -> None:
    """Raises `ValueError` for what no worker has to be started for to know that it will not do."""
    if not dataset.rows + dataset.replay_rows:
        raise ValueError("the dataset has no row to train on; see what `curate` left out, and why")
    _check_workers(run, job.training)
    if job.training.weights == "lora" and job.training.model and job.base != job.training.model:
        served, given = (_shape(each) for each in (resolve(served_model(run.settings, job.base)), job.model))
        if served and given and served != given:
            differing = ", ".join(
                f"{name} {given[name]} instead of {served[name]}" for name in served if served[name] != given[name]
            )
            raise ValueError(
                f"an adapter for {job.training.model} fits no engine that serves {job.base}: {differing}; "
                "leave training.model out, or train all weights (training.weights: full)"
            )


def _shape(model: str) -> dict[str, Any] | None:
    """What an adapter must agree with; None where the configuration is not on this machine."""
    try:
        config = json.loads((Path(model) / "config.json").read_bytes())
    except OSError:
        return None
    return {name: config.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")}


def _check_workers(run: Run, training: TrainingSettings) -> None:
    """Raises `ValueError` for more workers than the cluster can ever give."""
    import ray

    ours = Head.read(run.settings)
    if ours and not ours.mark:
        return  # somebody else's head, whose autoscaler may add machines
    kind = "GPU" if training.device == "gpu" else "CPU"
    have = int(ray.cluster_resources().get(kind, 0))
    if training.workers > have:
        raise ValueError(
            f"the recipe asks for {training.workers} workers and the cluster has {have} {kind}s; "
            "lower training.workers, or add machines (cluster.yaml)"
        )


def allocator() -> dict[str, str]:
    """Environment that gives a worker on CPUs jemalloc, of which Ray brings a build along.

    A step allocates tensors of ever other sizes, and glibc spent a fifth of it looking for room (`perf`, 1,400 tokens a
    step): 0.42 s a step against 0.33. An allocator that somebody has preloaded already stays.
    """
    import ray

    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    return {"LD_PRELOAD": str(library)} if library.is_file() and "LD_PRELOAD" not in os.environ else {}


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    give_way()  # before the imports, which take 10 s of a core
    from pipelines import trainer

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
    form = "adapter" if settings.weights == "lora" else "full"
    rank = settings.rank if settings.weights == "lora" else None
    fits = (champion.form, champion.base, champion.rank) == (form, base, rank)
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
        form="adapter" if job.training.weights == "lora" else "full",
        rank=job.training.rank if job.training.weights == "lora" else None,
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
