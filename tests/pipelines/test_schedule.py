"""The clock and the plan of a training, without any training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.packing import Example
from pipelines.recipe import TrainingSettings
from pipelines.schedule import Clock, Plan


def examples(n, prefix=40, own=10):
    return [Example([*range(prefix), *(100 + (7 * k + i) % 50 for i in range(own))], [1, 2, 3]) for k in range(n)]


def drive(clock, seconds_per_step):
    rates, step, elapsed = [], 0, 0.0
    clock.start(0, 0.0)
    while clock.progress < 1:
        rates.append(clock.rate())
        step, elapsed = step + 1, elapsed + (seconds_per_step(step) if callable(seconds_per_step) else seconds_per_step)
        clock.tick(step, elapsed)
    return rates, elapsed


def test_rate_rises_then_falls_to_zero_over_the_steps():
    rates, _ = drive(Clock(100, None), 1.0)
    assert len(rates) == 100
    assert 0 < rates[0] < rates[1] < max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] < 0.01


def test_time_that_runs_out_first_shortens_the_schedule():
    rates, elapsed = drive(Clock(1000, 50.0), 1.0)
    assert (len(rates), elapsed) == (50, 50)
    assert rates[-1] < 0.01


def test_machine_that_slows_down_in_the_middle_still_ends_in_time():
    rates, elapsed = drive(Clock(100, 60.0), lambda step: 0.5 if step < 50 else 2.0)
    assert elapsed <= 62
    assert rates[-1] < 0.02


def test_training_of_one_step_has_a_rate():
    assert drive(Clock(1, None), 1.0)[0][0] > 0.3


def test_time_of_earlier_attempts_counts():
    clock = Clock(100, 60.0)
    clock.start(40, 45.0)
    assert clock.progress == 0.75
    assert not clock.save_due(30)
    clock.tick(41, 76.0)
    assert clock.progress == 1


def test_checkpoints_come_at_their_interval():
    clock = Clock(1000, None)
    clock.start(0, 0.0)
    due = [step for step in range(1, 100) if clock.tick(step, float(step)) or clock.save_due(30)]
    assert due == [30, 60, 90]


def test_rows_behind_the_same_tools_are_packed():
    plan = Plan.make(examples(100), TrainingSettings(epochs=1, batch_tokens=2000, pack_tokens=500), True)
    assert plan.plain_tokens / plan.tokens > 2.5
    assert all(sum(map(len, batch)) <= 500 for batch in plan.batches)
    answers = sum(label != -100 for batch in plan.batches for pack in batch for label in pack.labels)
    assert answers >= 300


def test_plan_is_the_same_for_the_same_seed_and_differs_by_epoch():
    settings = TrainingSettings(epochs=2, batch_tokens=600, pack_tokens=300)
    first, again = Plan.make(examples(60), settings, True), Plan.make(examples(60), settings, True)
    batches = list(first.batches)
    assert replace(first, batches=batches) == replace(again, batches=list(again.batches))
    half = len(batches) // 2
    assert batches[:half] != batches[half:]


@pytest.mark.parametrize(("epochs", "workers", "steps"), [(1, 1, 10), (2.5, 1, 25), (1, 2, 10), (1, 4, 12)])
def test_steps_follow_from_rows_and_epochs_and_workers_share_them_evenly(epochs, workers, steps):
    rows = [Example([k] * 97, [1, 2, 3]) for k in range(100)]
    settings = TrainingSettings(epochs=epochs, min_steps=0, batch_tokens=1000, pack_tokens=100, workers=workers)
    plan = Plan.make(rows, settings, False)
    assert plan.steps == steps
    assert plan.epochs == pytest.approx(epochs, abs=0.05 * workers)
    assert len(plan.batches) == plan.steps * plan.accumulate
    assert plan.accumulate % workers == 0


def test_few_rows_are_passed_over_more_often_and_each_pass_may_differ():
    rows, seen = [Example([k] * 97, [1, 2, 3]) for k in range(20)], []

    def vary(epoch):
        seen.append(epoch)
        return [Example(row.prompt_ids, [epoch]) for row in rows]

    settings = TrainingSettings(epochs=1, min_steps=7, batch_tokens=1000, pack_tokens=100)
    plan = Plan.make(rows, settings, False, vary=vary)
    assert (plan.steps, plan.epochs) == (7, 3.5)
    assert [plan.batches[first][0].answer_ids for first in range(0, 70, 20)] == [[0], [1], [2], [3]]
    assert (seen, len(plan.batches)) == ([0, 1, 2, 3], 70)


def test_a_pass_is_made_when_it_is_come_to_and_two_are_held():
    rows, seen = [Example([k] * 97, [1, 2, 3]) for k in range(20)], []

    def vary(epoch):
        seen.append(epoch)
        return rows

    settings = TrainingSettings(epochs=4, min_steps=0, batch_tokens=1000, pack_tokens=100)
    plan = Plan.make(rows, settings, False, vary=vary)
    assert seen == [0]
    across = [plan.batches[number] for number in (19, 20, 19, 20)]
    assert (seen, across[:2]) == ([0, 1], across[2:])
    anew = Plan.make(rows, settings, False, vary=vary)  # a training that goes on after its first passes
    assert anew.batches[79] == list(plan.batches)[79]
    with pytest.raises(IndexError):
        plan.batches[80]


def test_row_longer_than_a_pack_gets_one_of_its_own():
    plan = Plan.make([*examples(10), Example([5] * 900, [1])], TrainingSettings(epochs=1, pack_tokens=300), True)
    assert max(len(sequence) for batch in plan.batches for sequence in batch) == 901


def test_plain_rows_are_grouped_by_length_up_to_the_budget():
    rows = [Example([1] * (10 + n), [2]) for n in range(60)]
    plan = Plan.make(rows, TrainingSettings(epochs=1, pack_tokens=200), False)
    assert all(len(batch) * max(map(len, batch)) <= 200 for batch in plan.batches)
