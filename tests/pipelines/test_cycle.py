from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.settings import Settings
from pipelines import job
from pipelines.cycle import one_canary_at_a_time, turn
from pipelines.recipe import Recipe
from pipelines.steps import Run, TooLittle, only_cycle, runs
from tests.pipelines.deployment import serve
from tests.pipelines.logs import START, corrected, feedback, record, write
from trivium import main


def recipe(folder: Path, text: str = "curation: {replay: {share: 0}}") -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_a_job_knows_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert job.inside() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert job.inside() == "raysubmit_1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cycle", "--recipe", "nonsense"], "there is no recipe nonsense; give a YAML file"),
        (["cycle", "--recipe", "missing.yaml"], "missing.yaml cannot be read"),
        (["cycle"], "start it with `trivium up`"),
        (["wheel", "status"], "trivium up"),
    ],
)
def test_what_a_user_can_mend_is_said_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STATE": str(tmp_path), "DASHBOARD_PORT": "41870", "HTTP_PORT": "41871"}.items():
        monkeypatch.setenv(f"TRIVIUM_{name}", value)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command prepares its process for Ray
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and said in result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1


def test_two_cycles_do_not_run_at_once(tmp_path: Path) -> None:
    with only_cycle(tmp_path), pytest.raises(ValueError, match="a cycle is running already"):
        turn(Settings(state=tmp_path), recipe(tmp_path), say=lambda _: None)
    assert runs(tmp_path) == []


def test_while_live_traffic_judges_a_candidate_there_is_no_other_cycle(tmp_path: Path) -> None:
    with serve(tmp_path) as deployment:
        for action in ("stage", "canary"):
            deployment.decide(action, {"alias": "assistant", "version": "assistant@1", "share": 0.1})
        run = Run.open(deployment.settings, Recipe(), "test", say=lambda _: None)
        with pytest.raises(TooLittle, match="assistant@1 is in its canary; wait for its end, or `trivium reject"):
            one_canary_at_a_time(run)
        run.update(candidate="assistant@1")
        one_canary_at_a_time(run)  # its own: it was killed after it had published


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
class TestTurn:
    def test_with_too_little_to_learn_it_ends_without_a_verdict_and_says_why(self, tmp_path: Path) -> None:
        write(tmp_path, corrected(20))
        lines: list[str] = []
        done = turn(Settings(state=tmp_path), recipe(tmp_path), say=lines.append)
        assert done.state == "done" and done.verdict is None
        assert done.outcome is not None and done.outcome.startswith("only 0 rows to learn from")
        assert lines[-1] == f"nothing to decide: {done.outcome}"
        assert done.newest is not None and done.finished is not None

    def test_feedback_that_lies_outside_of_the_window_is_not_asked_for_again(self, tmp_path: Path) -> None:
        late = {"time": START + 40 * 86_400, "request_id": "req-of-another"}
        write(tmp_path, [*corrected(20), record(0, alias="other", **late), feedback(0, **late)])
        done = turn(Settings(state=tmp_path), recipe(tmp_path), say=lambda _: None)
        assert done.outcome is not None and done.outcome.startswith("no request to assistant of the last 30 days")
        assert done.newest is not None and done.newest >= START + 20

    def test_a_failed_cycle_goes_on_at_the_step_that_it_lost(self, tmp_path: Path) -> None:
        # No deployment answers here, so training, the first step that asks it, fails; what came before is kept.
        settings = Settings(state=tmp_path, http_port=1)
        log = write(tmp_path, corrected(200))
        with pytest.raises(ValueError, match="trivium up"):
            turn(settings, recipe(tmp_path), say=lambda _: None)
        [first] = runs(tmp_path)
        assert first.state == "failed" and first.error is not None and "trivium up" in first.error
        assert set(first.timings_s) == {"collect", "curate"}

        write(tmp_path, [record(1000)])
        assert log.compact().table_version != first.table_version
        with pytest.raises(ValueError, match="trivium up"):
            turn(settings, recipe(tmp_path), say=lambda _: None)
        [second] = runs(tmp_path)
        assert (second.attempts, second.table_version) == (2, first.table_version)
        assert [second.steps[name].reused for name in ("collect", "curate")] == [True, True]
        assert second.steps["collect"].folder == first.steps["collect"].folder
