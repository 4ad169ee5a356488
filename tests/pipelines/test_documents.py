"""Documents in the forms of open corpora become a dataset, some of them only to measure on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.settings import Settings
from pipelines.artifacts import Dataset
from pipelines.documents import HELD_CHARACTERS, documents
from pipelines.recipe import Recipe
from pipelines.steps import Run, manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

TEXTS = [f"Document {number} says {'a lot ' * (number % 7)}of {number * number}." for number in range(50)]


def made(tmp_path: Path, pattern: str, **settings: object) -> Dataset:
    given = {"path": str(tmp_path / pattern), "holdout": 5, **settings}
    recipe = Recipe.model_validate(
        {"documents": given, "training": {"method": "pretrain"}, "evaluation": {"scorer": "likelihood"}}
    )
    return documents(Run.open(Settings(state=tmp_path / "state"), recipe, "test", say=lambda line: None))


def lines(rows: list[dict]) -> str:
    return "\n".join(map(json.dumps, rows))


def test_json_lines_with_sources_are_split_and_nothing_held_out_is_trained_on(tmp_path: Path) -> None:
    """As RedPajama has them; one file is compressed, a text is there twice, another is empty."""
    rows = [{"text": text, "meta": {"n": n}, "source": "ab"[n % 2]} for n, text in enumerate(TEXTS)]
    (tmp_path / "one.jsonl").write_text(lines(rows[:25]))
    with gzip.open(tmp_path / "two.jsonl.gz", "wt") as file:
        file.write(lines([*rows[25:], *rows[:25], {"text": " ", "source": "a"}]) + "\nno json")
    dataset = made(tmp_path, "*.jsonl*")
    assert manifest(dataset.path)["dropped"] == 2
    train, held = dataset.train(), dataset.holdout()
    assert len({row.row_id for row in train} | {row.row_id for row in held}) == 50
    assert not {row.row_id for row in train} & {row.row_id for row in held}
    assert (dataset.holdout_rows, len(held), dataset.rows) == (5, 5, len(train))
    assert {row.slice for row in train} == {"a", "b"}
    assert {row.messages[0]["content"] for row in [*train, *held]} == set(TEXTS)
    assert made(tmp_path, "*.jsonl*").digest == dataset.digest


def test_parquet_with_another_column_for_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"content": [*TEXTS, "long " * 5000]}), tmp_path / "part.parquet")
    dataset = made(tmp_path, "*.parquet", field="content", source=None)
    assert {row.slice for row in dataset.train()} == {"document"}
    assert max(len(row.messages[0]["content"]) for row in dataset.holdout()) <= HELD_CHARACTERS


@pytest.mark.parametrize(
    ("files", "settings", "said"),
    [
        ({}, {}, "there is no file"),
        ({"a.jsonl": lines([{"body": "x"}])}, {}, "holds 0 documents with text in 'text'"),
        ({"a.jsonl": "{}", "b.csv": "text"}, {}, "must name files of one kind"),
        ({"a.jsonl": "no json"}, {}, "holds 0 documents"),
    ],
)
def test_files_that_hold_no_documents_are_named(tmp_path: Path, files: dict, settings: dict, said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        made(tmp_path, "*.*", **settings)
