"""One turn of the wheel, on one screen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cluster.decisions import fold, read
from cluster.records import Verdict
from cluster.settings import Settings
from pipelines.collect import collect
from pipelines.curate import curate
from pipelines.documents import documents
from pipelines.evaluate import evaluate
from pipelines.gate import judge
from pipelines.publish import publish
from pipelines.recipe import Recipe, find
from pipelines.steps import Run, RunRecord, TooLittle, only_cycle
from pipelines.train import train


def cycle(run: Run) -> Verdict:
    """Records in, verdict out. Every step that is done is found again, so a killed cycle goes on where it was."""
    one_canary_at_a_time(run)
    dataset = documents(run) if run.recipe.documents else curate(run, collect(run))
    candidate = train(run, dataset)
    run.update(candidate=candidate.version.id)
    verdict = run.record.verdict
    if verdict is None:
        evaluation = evaluate(run, candidate, dataset)
        with run.timed("gate"):
            verdict = judge(evaluation, run.recipe.gate)
        # Given once: after a promotion that we did not live to note, the champion would be the candidate itself.
        run.update(verdict=verdict)
    decision = publish(run, candidate, verdict)
    run.update(outcome={"promote": "promoted", "canary": "canary"}.get(decision.action, "rejected"))
    return verdict


def one_canary_at_a_time(run: Run) -> None:
    """Raises `TooLittle` while live traffic judges another candidate: it has the place that ours would be staged in."""
    alias = fold(read(run.state)).aliases.get(run.recipe.alias)
    if alias and alias.canary and alias.staged != run.record.candidate:
        raise TooLittle(f"{alias.staged} is in its canary; wait for its end, or `trivium reject {alias.staged}`")


def turn(
    settings: Settings, recipe_name: str, job: str | None = None, say: Callable[[str], None] | None = None
) -> RunRecord:
    """A cycle from lock to verdict: begins a run or goes on with an unfinished one, and keeps its record.

    Raises `ValueError` for a recipe that does not fit, while another cycle runs, and for what a user can mend.
    """
    recipe = Recipe.load(find(recipe_name))
    with only_cycle(settings.state):
        run = Run.open(settings, recipe, recipe_name, job, say)
        again = f", attempt {run.record.attempts}" if run.record.attempts > 1 else ""
        run.say(f"cycle {run.record.id} of {recipe.alias}, recipe {recipe_name}{again}")
        try:
            connect(settings)
            verdict = cycle(run)
        except TooLittle as reason:
            run.update(state="done", outcome=str(reason), finished=time.time())
            run.say(f"nothing to decide: {reason}")
        except BaseException as error:
            run.update(state="failed", error=f"{type(error).__name__}: {error}", finished=time.time())
            raise
        else:
            run.update(state="done", finished=time.time())
            run.say(f"{run.record.outcome} {verdict.candidate}: {'; '.join(verdict.reasons)}")
        return run.record


def connect(settings: Settings) -> None:
    """Join the cluster as a driver, quietly. Raises `ValueError` when there is none."""
    import logging

    import ray

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or f"{settings.node_ip}:{settings.gcs_port}"
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except ConnectionError:
            raise ValueError(f"no cluster answers at {address}; start it with `trivium up`") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray 2.60's new reader took 33 s on two cores to list one small file, starting processes to ask about it; the one
    # before it reads the file in 0.3 s.
    context.use_datasource_v2 = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
