"""What each method learns from the same rows, and what it says of rows that it cannot use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import Dataset, Row
from pipelines.methods.pretrain import encode
from pipelines.recipe import GrpoSettings
from pipelines.rows import columns, write
from tests.pipelines.deployment import serve
from tests.pipelines.training import QUICK, TOOLS, WORDS, in_this_process, job, said

ray = pytest.mark.ray
local = pytest.mark.usefixtures("local_ray")


def document(number: int, text: str) -> Row:
    return Row(f"doc-{number:02}", [{"role": "assistant", "content": text}], [], [], "document", f"s{number}", "book")


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("books")
    rows = [columns(document(n, "book rome at noon, play jazz at five. " * (1 + n % 9))) for n in range(60)]
    write(folder / "train" / "part.parquet", rows)
    return Dataset(folder, "digest-2", 60, 0, 0, None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Runs of two turns each: a call, and an answer to what came of it."""
    folder, rows = tmp_path_factory.mktemp("runs"), []
    for n in range(60):
        tool, word = TOOLS[n % 3]["function"]["name"], WORDS[(n * 5) % 8]
        messages = [
            {"role": "user", "content": f"{tool} {word}"},
            {**said(tool, word), "weight": 1},
            {"role": "tool", "tool_call_id": "1", "content": f"{n * 7919} {word} it was"},
            {"role": "assistant", "content": f"{tool} done"},
        ]
        rows.append(columns(Row(f"run-{n:02}", messages, TOOLS, [], "run", f"s{n}", "agent:helper")))
    write(folder / "train" / "part.parquet", rows)
    return Dataset(folder, "digest-3", 60, 0, 0, 3)


class Letters:
    """A tokenizer of letters, between marks of the beginning and the end."""

    bos_token_id, eos_token_id = 1, 2

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]


def test_a_long_document_is_cut_and_no_part_learns_its_first_token_from_another() -> None:
    parts = encode(Letters(), document(0, "abcdefgh"), 4)
    whole = [1, *map(ord, "abcdefgh"), 2]
    assert [part.prompt_ids + part.answer_ids for part in parts] == [whole[:4], whole[4:8], whole[8:]]
    assert {len(part.prompt_ids) for part in parts} == {1}
    assert {part.row_id for part in parts} == {"doc-00"}


@ray
@local
@pytest.mark.parametrize("packing", [True, False])
def test_a_run_is_learnt_turn_by_turn(packing: bool, runs: Dataset, models: dict[str, Path]) -> None:
    settings = QUICK.model_copy(update={"packing": packing})
    outcome = in_this_process(job(runs, models["llama"], settings))
    assert outcome.metrics["train_loss"] < outcome.history[0]["loss"] / 2
    assert outcome.metrics["rows_too_long"] == 0


@ray
@local
def test_dpo_tells_corrections_from_what_they_correct(dataset: Dataset, models: dict[str, Path]) -> None:
    settings = QUICK.model_copy(update={"method": "dpo", "batch_tokens": 1600, "epochs": 6.0})
    outcome = in_this_process(job(dataset, models["llama"], settings))
    assert outcome.metrics["pairs"] == 80
    assert outcome.metrics["rewards/accuracies"] > 0.9
    assert outcome.metrics["rewards/margins"] > outcome.history[0]["rewards/margins"]
    assert outcome.metrics["train_loss"] < outcome.history[0]["loss"]


@ray
@local
def test_dpo_without_a_correction_says_what_it_needs(books: Dataset, models: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="none of 60 rows has a correction beside the answer that it corrects"):
        in_this_process(job(books, models["llama"], QUICK.model_copy(update={"method": "dpo"})))


@ray
@local
def test_grpo_asks_the_deployment_for_each_step_as_a_version_that_is_gone_afterwards(
    dataset: Dataset, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the answers are right; whose they are TRL learns from their tokens."""
    from transformers import AutoTokenizer

    from pipelines import prompt

    tokenizer, asked = AutoTokenizer.from_pretrained(models["llama"]), list[dict[str, Any]]()

    def chat(body: dict[str, Any]) -> tuple[int, Any]:
        number = body["model"].removeprefix("assistant.policy@")
        assert (tmp_path / "state" / "models" / "assistant.policy" / number / "version.json").exists()
        asked.append(body)
        tool, word = body["messages"][-1]["content"].split()
        answer = said(tool if len(asked) % 2 else "none of them", word)
        example = prompt.encode(tokenizer, [*body["messages"], answer], TOOLS)
        choice = {"message": answer, "finish_reason": "tool_calls", "token_ids": example.answer_ids}
        return 200, {"choices": [choice], "prompt_token_ids": example.prompt_ids}

    settings = QUICK.model_copy(
        update={"method": "grpo", "max_steps": 2, "grpo": GrpoSettings(prompts=2, generations=4, max_tokens=32)}
    )
    with serve(tmp_path / "state") as deployment:
        deployment.chat = chat
        monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path / "state"))
        monkeypatch.setenv("TRIVIUM_HTTP_PORT", str(deployment.settings.http_port))
        monkeypatch.setenv("TRIVIUM_MLFLOW_URI", str(deployment.settings.mlflow_uri))
        outcome = in_this_process(job(dataset, models["llama"], settings))
        assert {headers["x-trivium-purpose"] for headers in deployment.headers} == {"evaluation"}
    assert outcome.metrics["train_steps"] == 2
    assert 0.3 < outcome.metrics["reward"] < 0.7
    assert [body["return_token_ids"] for body in asked] == [True] * 16
    assert len({body["model"] for body in asked}) == 2, "each step has a policy of its own"
    assert not list((tmp_path / "state" / "models" / "assistant.policy").glob("*/*"))


@ray
@local
@pytest.mark.parametrize("start", ["base", "scratch"])
def test_documents_are_learnt_packed(start: str, books: Dataset, models: dict[str, Path]) -> None:
    settings = {"method": "pretrain", "weights": "full", "start": start, "learning_rate": 3e-3, "epochs": 10.0}
    outcome = in_this_process(job(books, models["llama"], QUICK.model_copy(update=settings)))
    assert outcome.metrics["train_loss"] < outcome.history[0]["loss"] / 2
    assert outcome.metrics["packing"] >= 1


@ray
@local
def test_a_row_that_another_value_would_make_too_long_stays_as_it_was(models: dict[str, Path]) -> None:
    """And is in every pass, though half of the values that it may draw are long."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines import prompt
    from pipelines.methods import Task, sft
    from pipelines.recipe import EvaluationSettings

    tokenizer, tool = AutoTokenizer.from_pretrained(models["llama"]), TOOLS[0]["function"]["name"]
    model = AutoModelForCausalLM.from_pretrained(models["llama"])

    def row(number: int, value: str) -> Row:
        messages = [{"role": "user", "content": f"{tool} {value}"}, said(tool, value)]
        return Row(f"row-{number}", messages, TOOLS, [], "log", f"s{number}", tool)

    rows = [row(number, "noon" if number < 4 else "rome " * 40 + "rome") for number in range(8)]
    fits = max(len(prompt.encode_row(tokenizer, short)) for short in rows[:4])
    changes = {"max_tokens": fits, "mention_replacement": 1.0, "epochs": 20.0, "packing": False}
    changes |= {"pack_tokens": fits, "batch_tokens": fits}
    training = QUICK.model_copy(update=changes)
    told = Task(rows, tokenizer, model, training, 1, True, "assistant", "tiny", EvaluationSettings(), print)
    work = sft.prepare(told)
    seen = [name for batch in range(work.steps * work.accumulate) for name in work.rows_of(batch)]
    counts = [seen.count(f"row-{number}") for number in range(4)]
    assert min(counts) > 10 and max(counts) - min(counts) <= 1, counts  # the last pass need not be a whole one


@ray
@local
def test_padded_rows_take_the_steps_of_packed_ones_at_more_tokens(dataset: Dataset, models: dict[str, Path]) -> None:
    """The same rows; packed, the tools that they share count once."""
    changes = {"max_steps": 3, "mention_replacement": 0}
    packed, padded = (
        in_this_process(job(dataset, models["llama"], QUICK.model_copy(update={**changes, "packing": packing})))
        for packing in (True, False)
    )
    assert packed.metrics["packing"] > 1.5
    assert padded.metrics["packing"] == 1
    assert padded.metrics["train_loss"] == pytest.approx(packed.metrics["train_loss"], rel=0.2)


@ray
@local
def test_weights_that_a_run_starts_from_are_those_of_its_parent(
    dataset: Dataset, models: dict[str, Path], tmp_path: Path
) -> None:
    """All weights: a model's folder is what the next run goes on from."""
    from pipelines.train import fit

    settings = QUICK.model_copy(update={"weights": "full", "learning_rate": 3e-3, "max_steps": 8, "precision": "fp32"})
    first = fit(job(dataset, models["llama"], settings), tmp_path / "work", tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in tmp_path.iterdir()}
    told = job(dataset, models["llama"], settings.model_copy(update={"start": "parent"}))
    again = in_this_process(told.model_copy(update={"parent": str(tmp_path)}))
    assert again.history[0]["loss"] < first.history[0]["loss"] / 2
