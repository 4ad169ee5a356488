"""A state folder with a version of each form, as cycles leave them, and the weights of its base beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import durable
from cluster.decisions import path
from cluster.records import Decision, Evidence, Lineage
from cluster.registry import Registry
from cluster.settings import Settings
from tests.examples import verdict
from tests.services.tiny import make_adapter, make_model

BASE = "acme/tiny"


@dataclass(frozen=True)
class House:
    """`assistant@0` is the base, `@1` an adapter and the champion, `@2` of full weights."""

    settings: Settings
    base: Path
    adapter: Path
    full: Path

    @property
    def state(self) -> Path:
        return self.settings.state


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    from pipelines.export import weights  # noqa: F401, before peft could import DeepSpeed

    folder = tmp_path_factory.mktemp("house")
    settings = Settings(state=folder / "state")
    base, full = make_model(folder / "weights", seed=0), make_model(folder / "full", seed=1)
    (base / "README.md").write_text("---\nlicense: mit\n---\n\nA tiny Llama.\n")
    (base / "training_args.bin").write_bytes(b"pickle")
    adapter = make_adapter(base, folder / "adapter", rank=8, seed=2)
    edit(adapter / "adapter_config.json", base_model_name_or_path=BASE, lora_alpha=8)
    registry = Registry(settings)
    registry.create_base("assistant", BASE)
    registry.create("assistant", BASE, "adapter", 8, "assistant@0", lineage(folder), adapter)
    registry.create("assistant", BASE, "full", None, "assistant@1", None, full)
    keep(settings.state)
    decide(settings.state)
    return House(settings, base, adapter, full)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def lineage(folder: Path) -> Lineage:
    return Lineage(
        cycle="20261101-000000-ab",
        rows=1200,
        replay_rows=130,
        table_version=7,
        dataset="datasets/curate-a",
        dataset_digest="d" * 64,
        recipe=str(folder / "mine.yaml"),
        recipe_digest="e" * 64,
        code_revision="abc123",
        metrics={"loss": 0.25, "steps": 300.0},
    )


def keep(state: Path) -> None:
    """What the cycle left beside the version: its dataset's manifest, and the loss curve."""
    made = {
        "holdout_rows": 88,
        "slices": {"book_table": 700, "<img src=x> | play": 500},
        "dropped": {"near duplicate": 31},
        "scrubbed": {"email": 4},
    }
    history = [{"step": float(step), "loss": 3.0 / (1 + step)} for step in range(0, 300, 10)]
    for name, manifest in (("curate-a", made), ("train-a", {"history": history})):
        durable.make_folder(state / "datasets" / name)
        (state / "datasets" / name / "manifest.json").write_text(json.dumps(manifest))
    durable.make_folder(state / "runs" / "20261101-000000-ab")
    steps = {"steps": {"train": {"folder": "datasets/train-a"}}}
    (state / "runs" / "20261101-000000-ab" / "run.json").write_text(json.dumps(steps))


def decide(state: Path) -> None:
    judged = verdict(
        slices={"book_table": {"rows": 50, "candidate": 0.9, "champion": 0.5, "gain_high": 0.5}},
        rows=88,
        candidate_score=0.91,
        champion_score=0.52,
        gain=0.39,
        gain_low=0.31,
        well_formed=0.995,
    )
    evidence = Evidence(
        records=120,
        candidate_sessions=40,
        champion_sessions=310,
        candidate_score=0.875,
        champion_score=0.625,
        alpha=0.02,
        better=65.5,
        worse=0.25,
        more_errors=1,
        slower=1,
    )
    told: list[dict[str, Any]] = [
        {"action": "create", "version": "assistant@0", "actor": "services"},
        {"action": "stage", "version": "assistant@1", "actor": "wheel"},
        {"action": "canary", "version": "assistant@1", "actor": "wheel", "share": 0.1, "verdict": judged},
        {"action": "promote", "version": "assistant@1", "actor": "rollout", "evidence": evidence},
    ]
    durable.make_folder(state / "rollout")
    for sequence, what in enumerate(told):
        decision = Decision(
            sequence=sequence, time=1.8e9, alias="assistant", base=BASE, reason="ask Ann, password hunter2", **what
        )
        durable.create(path(state, sequence), decision.model_dump_json().encode())


Run = Callable[[Path, dict[str, str]], dict[str, Any]]


@pytest.fixture
def run_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the Python of a card as its reader would, beside the folder. Returns its names, and what it printed."""

    def run(folder: Path, replaced: dict[str, str]) -> dict[str, Any]:
        code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        for old, new in replaced.items():
            assert old in code
            code = code.replace(old, new)
        monkeypatch.chdir(folder.parent)
        names: dict[str, Any] = {}
        exec(code, names)
        return {**names, "printed": capsys.readouterr().out}

    return run
