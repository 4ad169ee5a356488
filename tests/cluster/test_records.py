from __future__ import annotations

import json
import math

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.records import Decision, Entry, Feedback, Lineage, Record, Version
from tests.examples import verdict

RECORD = Record(
    request_id="req-1", time=1.0, principal="p", session="s", endpoint="/v1/x", version="assistant@1", latency_s=0.1
)
FEEDBACK = Feedback(request_id="req-1", time=2.0, principal="p", score=0.5)
LINEAGE = Lineage(
    cycle="c",
    rows=10,
    replay_rows=3,
    table_version=7,
    dataset="curate-1",
    dataset_digest="d",
    recipe="default.yaml",
    recipe_digest="r",
    code_revision="abc",
    metrics={"loss": 0.5},
)
VERSION = Version(name="assistant", number=7, base="seed", form="adapter", rank=8, created=3.0, lineage=LINEAGE)
VERDICT = verdict()
DECISION = Decision(
    sequence=0, time=1.0, action="promote", alias="assistant", version="assistant@7", base="seed", actor="owner",
    reason="r", verdict=VERDICT,
)  # fmt: skip


@pytest.mark.parametrize("record", [RECORD, FEEDBACK, VERSION, VERDICT, DECISION], ids=lambda r: type(r).__name__)
def test_a_record_comes_back_from_json_as_it_was(record) -> None:
    assert type(record).model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("record", [RECORD, FEEDBACK, VERSION, DECISION], ids=lambda r: type(r).__name__)
def test_a_record_of_a_newer_writer_is_read(record) -> None:
    newer = {**json.loads(record.model_dump_json()), "schema_version": 2, "added_later": {"a": 1}}
    assert type(record).model_validate(newer).schema_version == 2


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RECORD.version = "assistant@2"  # type: ignore[misc]


def test_an_entry_is_told_by_its_kind() -> None:
    entries = TypeAdapter(Entry)
    assert entries.validate_json(RECORD.model_dump_json()) == RECORD
    assert entries.validate_json(FEEDBACK.model_dump_json()) == FEEDBACK


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf, "much"])
def test_a_score_lies_between_zero_and_one(score) -> None:
    with pytest.raises(ValidationError):
        Feedback(request_id="req-1", time=2.0, principal="p", score=score)


def test_a_versions_id_is_its_name_and_number() -> None:
    assert VERSION.id == "assistant@7"
