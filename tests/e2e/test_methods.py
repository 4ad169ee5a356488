"""Every shipped recipe in a cycle, on the cluster that the demo left: what each learns, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.client import Client
from demo import traffic
from pipelines.recipe import find
from pipelines.steps import manifest
from tests.conftest import Cluster
from tests.e2e.conftest import Shown
from tests.e2e.using import Load, answers, recipe, runs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


BESIDE_LOAD: dict[str, Any] = {"sharing": {"pause": "never"}}
"""Making way for a load that never pauses, a training would take four times as long."""


def shipped(name: str, path: Path, **changes: dict[str, Any]) -> Path:
    """A shipped recipe with a few settings changed: how long it may take, and whose records it reads."""
    settings = yaml.safe_load(find(name).read_text())
    for part, given in changes.items():
        settings[part] = {**settings.get(part, {}), **given} if isinstance(given, dict) else given
    return recipe(path / f"{name}.yaml", **settings)


def turned(cluster: Cluster, file: Path) -> dict[str, Any]:
    """A cycle's record; a candidate that got its canary is taken back, so that the next cycle has its place."""
    cluster.trivium("cycle", "--recipe", str(file), timeout_s=900)
    run = runs(cluster)[-1]
    assert run["state"] == "done"
    if run["outcome"] == "canary":
        cluster.trivium("reject", run["candidate"])
    return run


def history(cluster: Cluster, run: dict[str, Any]) -> list[dict[str, float]]:
    return manifest(cluster.state / run["steps"]["train"]["folder"])["history"]


@pytest.fixture(scope="module")
def documents(shown: Shown, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users of the demo asked for, as a corpus; and an alias that is to read it."""
    path = tmp_path_factory.mktemp("documents") / "requests.jsonl"
    texts = [wish.text for wish in traffic.read(shown.out / "traffic").train]
    path.write_text("\n".join(json.dumps({"text": text, "source": "requests"}) for text in texts))
    with Client(cluster.settings, cluster.api_key) as admin:
        admin.create("reader", "seed")
    return path


def test_dpo_learns_from_what_users_corrected(shown: Shown, cluster: Cluster, tmp_path: Path) -> None:
    run = turned(cluster, shipped("dpo", tmp_path, training={"max_seconds": 40}))
    told = json.loads(cluster.trivium("lineage", run["candidate"], "--json").stdout)
    assert told["lineage"]["metrics"]["pairs"] > 100
    assert told["lineage"]["metrics"]["rewards/accuracies"] > 0.7
    assert run["verdict"]["candidate_score"] > 0.9 * run["verdict"]["champion_score"], "it goes on from the champion"


def test_grpo_learns_from_what_the_served_model_says(shown: Shown, cluster: Cluster, tmp_path: Path) -> None:
    few = {**BESIDE_LOAD, "max_steps": 3, "max_seconds": 60, "grpo": {"prompts": 4, "generations": 4}}
    with Load(cluster, users=1) as load:
        run = turned(cluster, shipped("grpo", tmp_path, training=few))
    assert not load.failures and {heard.version for heard in load.heard} == {shown.champion}
    rewards = [entry["reward"] for entry in history(cluster, run)]
    assert min(rewards) >= 0 and 0.5 < max(rewards) <= 1, "it starts from the champion"
    left = [path.parent for path in (cluster.state / "models").glob("assistant.policy/*/version.json")]
    assert not left, "policies go once they have answered"


def test_full_weights_are_measured_where_they_would_serve(shown: Shown, cluster: Cluster, tmp_path: Path) -> None:
    with Load(cluster, users=1) as load:
        run = turned(cluster, shipped("full", tmp_path, training={**BESIDE_LOAD, "max_seconds": 30}))
    assert not load.failures and answers(cluster) == shown.champion
    told = json.loads(cluster.trivium("lineage", run["candidate"], "--json").stdout)
    assert told["form"] == "full"
    assert run["verdict"]["candidate_score"] > shown.report["before"]["tool_accuracy"]


def test_continued_pretraining_makes_documents_more_likely(cluster: Cluster, documents: Path, tmp_path: Path) -> None:
    file = shipped(
        "continued",
        tmp_path,
        alias="reader",
        documents={"path": str(documents), "holdout": 30},
        training={"epochs": 6, "max_seconds": 40, "batch_tokens": 1024},
    )
    run = turned(cluster, file)
    assert run["verdict"]["accepted"], run["verdict"]
    assert run["verdict"]["candidate_score"] > 1.1 * run["verdict"]["champion_score"]


def test_pretraining_makes_a_model_of_random_weights_that_is_served_and_measured(
    cluster: Cluster, documents: Path, tmp_path: Path
) -> None:
    file = shipped(
        "pretrain",
        tmp_path,
        alias="reader",
        documents={"path": str(documents), "holdout": 30},
        training={"max_steps": 5, "batch_tokens": 1024},
    )
    run = turned(cluster, file)
    assert history(cluster, run)[-1]["loss"] < history(cluster, run)[0]["loss"]
    told = json.loads(cluster.trivium("lineage", run["candidate"], "--json").stdout)
    assert (told["form"], told["lineage"]["table_version"]) == ("full", None)
    assert 0 < run["verdict"]["candidate_score"] < 1
