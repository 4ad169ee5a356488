"""Both versions answer the holdout through the deployment's public door."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.records import Version
from pipelines.artifacts import Candidate, Dataset
from pipelines.evaluate import Answers, evaluate
from pipelines.recipe import EvaluationSettings, Recipe
from pipelines.steps import Run
from tests.pipelines.deployment import error, message, serve

CANDIDATE = Candidate(Version(name="assistant", number=1, base="seed", form="adapter", created=0.0), {})
TOOLS = [{"type": "function", "function": {"name": "book", "parameters": {}}}]


@pytest.fixture
def deployment(tmp_path):
    with serve(tmp_path / "state") as running:
        running.chat = lambda body: (200, message(body["messages"][0]["content"].upper() if candidate(body) else "no"))
        yield running


def candidate(body):
    return body["model"] == "assistant@1"


def holdout(folder: Path, rows: int = 12, tools=(), reference=None, options=None) -> Dataset:
    lines = [
        {
            "row_id": f"row-{n:02}",
            "messages": json.dumps(
                [{"role": "user", "content": f"say {n}"}, reference or {"role": "assistant", "content": f"SAY {n}"}]
            ),
            "tools": json.dumps(list(tools)),
            "record_ids": [f"req-{n}"],
            "origin": "log",
            "session": f"s{n}",
            "slice": "text",
            "options": json.dumps(options or {}),
        }
        for n in range(rows)
    ]
    (folder / "holdout").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(lines), folder / "holdout" / "part.parquet")
    return Dataset(folder, folder.name, 1, 0, rows, 1)


def run(deployment, **settings) -> Run:
    recipe = Recipe(evaluation=EvaluationSettings(**{"scorer": "exact", "patience_s": 5, **settings}))
    return Run.open(deployment.settings, recipe, "test")


def test_candidate_is_staged_and_both_versions_answer_every_row(deployment, tmp_path):
    found = evaluate(run(deployment, concurrency=3), CANDIDATE, holdout(tmp_path / "one"))
    assert deployment.actions == [("create", "assistant@0"), ("stage", "assistant@1")]
    assert (found.candidate, found.champion) == ("assistant@1", "assistant@0")
    assert [(row.candidate, row.champion, row.well_formed) for row in found.rows] == [(1, 0, True)] * 12
    assert found.metrics["candidate"] == {"score": 1, "well_formed": 1, "exact_match": 1}
    assert found.metrics["champion"] == {"score": 0, "well_formed": 1, "exact_match": 0}
    assert len(deployment.requests) == 24
    assert deployment.busiest <= 3
    assert {headers["x-trivium-purpose"] for headers in deployment.headers} == {"evaluation"}
    assert {headers["authorization"] for headers in deployment.headers} == {"Bearer sk-trivium-test"}
    body = deployment.requests[0]
    assert (body["temperature"], body["max_tokens"], len(body["messages"])) == (0, 128, 1)


@pytest.mark.parametrize(
    ("options", "calls", "choice"),
    [({}, True, "required"), ({}, False, "auto"), ({"tool_choice": "auto"}, True, "auto")],
)
def test_tools_are_offered_as_they_were_logged(deployment, tmp_path, options, calls, choice):
    call = {"id": "1", "type": "function", "function": {"name": "book", "arguments": "{}"}}
    reference = {"role": "assistant", "content": "", "tool_calls": [call]} if calls else None
    evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one", 1, TOOLS, reference, options))
    assert deployment.requests[0]["tools"] == TOOLS
    assert {body["tool_choice"] for body in deployment.requests} == {choice}


def test_champion_is_not_asked_again_in_the_next_cycle(deployment, tmp_path):
    evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one"))
    deployment.requests.clear()
    following = Candidate(CANDIDATE.version.model_copy(update={"number": 2}), {})
    evaluate(run(deployment), following, holdout(tmp_path / "two"))
    assert {body["model"] for body in deployment.requests} == {"assistant@2"}


def test_evaluation_that_was_killed_goes_on_where_it_was(deployment, tmp_path):
    dataset, answers = holdout(tmp_path / "one"), deployment.chat

    def dies(body):
        return answers(body) if len(deployment.requests) < 10 else (400, "the whole machine is gone")

    deployment.chat = dies
    with pytest.raises(ValueError, match="has not answered"):
        evaluate(run(deployment, patience_s=0.1, concurrency=1), CANDIDATE, dataset)
    done = 9
    deployment.chat = answers
    deployment.requests.clear()
    evaluate(run(deployment, concurrency=1), CANDIDATE, dataset)
    assert len(deployment.requests) == 24 - done


def test_finished_evaluation_is_not_repeated(deployment, tmp_path):
    first = evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one"))
    deployment.requests.clear()
    again = evaluate(run(deployment), CANDIDATE, Dataset(tmp_path / "one", "one", 1, 0, 12, 1))
    assert (again, deployment.requests) == (first, [])


@pytest.mark.parametrize("reply", [(503, error("no room")), (404, "not found"), (500, "Internal Server Error")])
def test_restart_of_the_deployment_is_waited_out(deployment, tmp_path, reply):
    answers = deployment.chat
    deployment.chat = lambda body: reply if len(deployment.requests) < 4 else answers(body)
    found = evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one", 3))
    assert [row.candidate for row in found.rows] == [1, 1, 1]


def test_request_that_the_model_cannot_serve_scores_nothing(deployment, tmp_path):
    answers = deployment.chat
    too_long = lambda body: body["messages"][0]["content"] == "say 1"  # noqa: E731
    deployment.chat = lambda body: (400, error("too long")) if too_long(body) else answers(body)
    found = evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one", 3))
    assert [(row.candidate, row.well_formed) for row in found.rows] == [(1, True), (0, False), (1, True)]


def test_answer_that_was_cut_off_is_not_well_formed(deployment, tmp_path):
    deployment.chat = lambda body: (200, message(body["messages"][0]["content"].upper(), "length"))
    found = evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one", 2))
    assert [(row.candidate, row.well_formed) for row in found.rows] == [(1, False), (1, False)]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((401, error("that key is unknown")), "that key is unknown"),
        ((404, error("no model assistant@1")), "no model assistant@1"),
        ((400, error("tools need a parser")), "refused every request to assistant@1: tools need a parser"),
        ((503, "no replica"), "has not answered assistant@"),
    ],
)
def test_deployment_that_cannot_evaluate_is_one_clear_sentence(deployment, tmp_path, reply, sentence):
    deployment.chat = lambda body: reply
    with pytest.raises(ValueError, match=sentence):
        evaluate(run(deployment, patience_s=0.2), CANDIDATE, holdout(tmp_path / "one", 2))


def test_unknown_alias_is_named(deployment, tmp_path):
    recipe = Recipe(alias="helper", evaluation=EvaluationSettings(scorer="exact"))
    with pytest.raises(ValueError, match=r"no alias helper \(there is: assistant\)"):
        evaluate(Run.open(deployment.settings, recipe, "test"), CANDIDATE, holdout(tmp_path / "one"))


def test_torn_line_of_the_answers_is_asked_again(deployment, tmp_path):
    evaluate(run(deployment), CANDIDATE, holdout(tmp_path / "one", 2))
    file = deployment.state / "runs" / "answers" / "assistant@0.jsonl"
    file.write_text(file.read_text()[:-20])
    deployment.requests.clear()
    following = Candidate(CANDIDATE.version.model_copy(update={"number": 2}), {})
    evaluate(run(deployment), following, holdout(tmp_path / "two", 2))
    assert sorted(body["model"] for body in deployment.requests) == ["assistant@0", "assistant@2", "assistant@2"]
    assert len(Answers(deployment.state, "assistant@0")._known) == 2
