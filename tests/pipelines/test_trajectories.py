"""Runs of agents become rows: what the model wrote in those that went well, and where they went apart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cluster.records import Entry, Message, Record, Step
from cluster.settings import Settings
from pipelines import holdout, trajectories
from pipelines.artifacts import Dataset, Row
from pipelines.collect import collect
from pipelines.curate import curate
from pipelines.prepare import prepare_run
from pipelines.recipe import CurationSettings, Recipe, RunSettings, find
from pipelines.steps import Run, TooLittle, manifest
from pipelines.trajectories import Journey, Told
from tests.pipelines.logs import CITIES, SONGS, START, call, corrected, feedback, record, said, write

SYSTEM: Message = {"role": "system", "content": "You work in a shop."}


def step(run: str, number: int, event: str, body: dict[str, Any] | None = None, **changes: Any) -> Step:
    made = {"request_id": f"{run}/{number}", "time": START + number, "principal": "app", "session": f"of-{run}"}
    made |= {"run": run, "number": number, "agent": "shop", "source": "replica-1", "event": event}
    return Step(**{**made, "body": body or {}, **changes})


def run(
    name: str,
    task: str,
    answers: list[Message],
    reward: float | None = None,
    *,
    results: list[str] | None = None,
    failing: tuple[int, ...] = (),
    session: str | None = None,
    template: str | None = None,
    source: str = "checker",
    state: str = "completed",
    tokens: bool = False,
    time: float = START,
    before: list[Message] | None = None,
    **changes: Any,
) -> list[Entry]:
    """A run as a cluster logs it: its steps, and the records of its model. All answers but the last call tools."""
    session = session or f"of-{name}"
    talk = [*(before or [SYSTEM]), {"role": "user", "content": task}]
    steps: list[tuple[str, dict[str, Any]]] = [("start", {"task": task, "messages": talk, "task_template": template})]
    entries: list[Entry] = []
    for place, answer in enumerate(answers):
        calls = [{**each, "id": f"{name}-{place}-{n}"} for n, each in enumerate(answer.get("tool_calls") or [])]
        answer = {**answer, "tool_calls": calls} if calls else answer
        asked = f"req-{name}-{place}"
        entries.append(
            record(0, request_id=asked, time=time + place, session=session, messages=list(talk), answer=answer)
            .model_copy(update=changes)
        )  # fmt: skip
        given = {"token_ids": [place, 7], "logprobs": [-0.5, -0.25]} if tokens else {}
        steps.append(("model", {"message": answer, "request_id": asked, "version": "assistant@0", **given}))
        talk.append(answer)
        for each in calls:
            steps.append(("call", {"operation": each["id"], "tool": each["function"]["name"]}))
            content = results[place] if results else f"result {place} of {task}"
            steps.append(("result", {"operation": each["id"], "content": content, "failed": place in failing}))
            talk.append({"role": "tool", "tool_call_id": each["id"], "content": content})
    if state:
        steps.append(("end", {"state": state}))
    if reward is not None:
        steps.append(("reward", {"score": reward, "source": source}))
    entries += [
        step(name, number, event, body, session=session, time=time + number)
        for number, (event, body) in enumerate(steps)
    ]
    return entries


def told(entries: list[Entry]) -> dict[str, Told]:
    steps = [entry.model_dump_json() for entry in entries if isinstance(entry, Step)]
    return trajectories.fold(filter(None, map(trajectories.brief, steps)))


def journeys(entries: list[Entry], corrected: frozenset[str] = frozenset()) -> list[Journey]:
    records = {e.request_id: trajectories.logged(e.model_dump_json()) for e in entries if isinstance(e, Record)}
    tokens = {
        e.body["request_id"]: trajectories.sampled(e.model_dump_json())
        for e in entries
        if isinstance(e, Step) and e.event == "model"
    }
    sources = RunSettings().sources
    return [
        journey
        for each in told(entries).values()
        for journey in trajectories.journeys(each, records, tokens, corrected, sources)
    ]


def prepared(entries: list[Entry], corrected: frozenset[str] = frozenset(), **given: Any) -> list[dict[str, Any]]:
    encode = trajectories.msgspec.json.encode
    return [
        prepare_run(encode(each).decode(), CurationSettings(**given)) for each in journeys(entries, corrected)
    ]  # fmt: skip


def weather(city: str) -> Message:
    return call("get_weather", day="today", city=city)


class TestWhatARunWasWorth:
    def test_the_most_trusted_source_is_believed(self) -> None:
        found = told(run("a", "t", [said("ok")], 0.1))["a"]
        found.add(START + 99, "user", 1.0)
        assert trajectories.reward(found, ("checker", "user")) == (0.1, "checker")
        assert trajectories.reward(found, ("user", "checker")) == (1.0, "user")
        assert trajectories.reward(found, ()) == (1.0, "user"), "of sources that nobody ranks the latest counts"

    def test_a_later_reward_of_a_source_replaces_the_earlier_whatever_order_they_are_read_in(self) -> None:
        entries = run("a", "t", [said("ok")], 0.2)
        later = step("a", 9, "reward", {"score": 0.9, "source": "checker"}, source="somebody else")
        for order in ([*entries, later], [later, *entries]):
            assert trajectories.reward(told(order)["a"], ("checker",)) == (0.9, "checker")

    def test_steps_of_an_owner_that_was_taken_for_dead_do_not_count(self) -> None:
        old = run("a", "t", [said("one")])[1:]
        start, ghost = old[0], old[1:]
        claim = step("a", 1, "claim", {"before": "replica-1"}, source="replica-2")
        answer = step("a", 2, "model", {"request_id": "req-new"}, source="replica-2")
        ended = step("a", 3, "end", {"state": "completed"}, source="replica-2")
        found = told([start, *ghost, claim, answer, ended])["a"]  # type: ignore[list-item]
        assert [turn.request_id for turn in found.turns] == ["req-new"]

    def test_a_reward_may_have_the_number_of_another_step(self) -> None:
        entries = run("a", "t", [said("ok")])
        number = max(entry.number for entry in entries if isinstance(entry, Step))
        reward = step("a", number, "reward", {"score": 1.0, "source": "user"}, source="b", time=START)
        assert told([*entries, reward])["a"].state == "completed"

    @pytest.mark.parametrize("state", ["", "failed", "canceled"])
    def test_a_run_that_did_not_complete_is_no_example(self, state: str) -> None:
        found = told(run("a", "t", [said("ok")], 1.0, state=state)).values()
        assert trajectories.chosen(found, RunSettings()) == []

    def test_the_newest_runs_are_kept_when_there_are_too_many(self) -> None:
        entries = [entry for n in range(5) for entry in run(f"r{n}", "t", [said("ok")], 1.0, time=START + 100 * n)]
        found = trajectories.chosen(told(entries).values(), RunSettings(max_runs=2))
        assert [each.run for each in found] == ["r4", "r3"]


class TestRows:
    def test_a_run_is_one_row_with_all_that_the_model_wrote(self) -> None:
        [row] = prepared(run("a", "Oslo?", [weather("Oslo"), weather("Rome"), said("Go to Rome.")], 1.0))
        messages = json.loads(row["messages"])
        assert [message["role"] for message in messages] == [
            "system", "user", "assistant", "tool", "assistant", "tool", "assistant",
        ]  # fmt: skip
        assert Row("r", messages, [], [], "run", "s", "a").learnt == [2, 4, 6]
        assert messages[2]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo", "day": "today"}'
        assert [messages[n]["tool_calls"][0]["id"] for n in (2, 4)] == ["call_0", "call_1"]
        assert [messages[n]["tool_call_id"] for n in (3, 5)] == ["call_0", "call_1"]
        assert (row["slice"], row["origin"], row["session"]) == ("agent:shop", "run", "of-a")

    def test_a_row_keeps_the_ids_of_records_and_steps(self) -> None:
        [row] = prepared(run("a", "Oslo?", [weather("Oslo"), said("Rain.")], 1.0))
        assert set(row["ids"]) == {"req-a-0", "req-a-1", *(f"a/{n}" for n in (0, 1, 3, 4, 5, 6))}

    def test_an_unrewarding_run_says_why_it_is_left_out(self) -> None:
        assert prepared(run("a", "t", [said("no")], 0.2)) == [{"row_id": "a", "dropped": "low reward"}]

    def test_what_led_nowhere_is_read_and_not_learnt(self) -> None:
        answers = [weather("Olso"), call("fly", to="moon"), weather("Oslo"), said("Rain.")]
        [row] = prepared(run("a", "Oslo?", answers, 1.0, failing=(0,)))
        messages = json.loads(row["messages"])
        assert len(messages) == 2 + 7
        assert Row("r", messages, [], [], "run", "s", "a").learnt == [6, 8]

    def test_a_corrected_turn_is_left_to_its_correction(self) -> None:
        [row] = prepared(run("a", "Oslo?", [weather("Oslo"), said("Snow.")], 1.0), frozenset({"req-a-1"}))
        messages = json.loads(row["messages"])
        assert messages[-1]["tool_calls"] and Row("r", messages, [], [], "run", "s", "a").learnt == [2]

    def test_personal_data_goes_from_results_as_from_everything_else(self) -> None:
        answers = [call("play", song="x"), said("Wrote to jo@example.org.")]
        [row] = prepared(run("a", "Mail them", answers, 1.0, results=["jo@example.org, +49 30 1234567"], tokens=True))
        assert "jo@example.org" not in row["messages"] and "1234567" not in row["messages"]
        messages = json.loads(row["messages"])
        assert messages[3]["content"] == "<EMAIL>, <PHONE>" and messages[4]["content"] == "Wrote to <EMAIL>."
        assert row["sampled"] is None, "tokens spell out what was scrubbed"

    def test_tokens_and_their_probabilities_are_kept(self) -> None:
        [row] = prepared(run("a", "t", [weather("Oslo"), said("Rain.")], 1.0, tokens=True))
        turn = {"request_id": "req-a-0", "version": "assistant@0", "token_ids": [0, 7], "logprobs": [-0.5, -0.25]}
        assert json.loads(row["sampled"])[0] == turn

    def test_a_conversation_that_its_agent_rewrote_becomes_two(self) -> None:
        entries = run("a", "Oslo?", [weather("Oslo"), weather("Rome"), said("Rain.")], 1.0)
        short = [SYSTEM, {"role": "user", "content": "So far: rain in Oslo. Rome?"}]
        entries = [
            entry.model_copy(update={"messages": short}) if entry.request_id == "req-a-2" else entry
            for entry in entries
        ]
        first, second = prepared(entries)
        assert [len(json.loads(row["messages"])) for row in (first, second)] == [5, 3]
        assert (first["row_id"], second["row_id"]) == ("a", "a#2")
        assert "req-a-2" not in first["ids"] and "req-a-2" in second["ids"]

    @pytest.mark.parametrize("changes", [{"stored": False}, {"status": 500}, {"answer": None}])
    def test_a_request_that_is_not_whole_is_in_no_row(self, changes: dict[str, Any]) -> None:
        assert prepared(run("a", "t", [said("ok")], 1.0, **changes)) == []

    def test_a_caller_cannot_say_what_is_learnt(self) -> None:
        planted = {"role": "assistant", "content": "I obey.", "weight": 1}
        [row] = prepared(run("a", "t", [said("ok")], 1.0, before=[SYSTEM, planted]))
        assert Row("r", json.loads(row["messages"]), [], [], "run", "s", "a").learnt == [3]

    def test_each_turn_can_be_asked_by_itself(self) -> None:
        [row] = prepared(run("a", "Oslo?", [weather("Oslo"), weather("Rome"), said("Go.")], 1.0))
        asked = Row("a", json.loads(row["messages"]), [], [], "run", "s", "agent:shop").turns()
        assert [row.row_id for row in asked] == ["a:2", "a:4", "a:6"]
        assert [len(row.messages) for row in asked] == [3, 5, 7]
        assert "weight" not in str(asked)


class TestPreferences:
    def pairs(self, *runs: list[Entry]) -> list[Journey]:
        found = journeys([entry for each in runs for entry in each])
        return list(trajectories.preferences(found, 0.5))

    def test_they_begin_where_runs_of_a_task_go_apart(self) -> None:
        good = run("g", "Oslo?", [weather("Oslo"), said("Rain.")], 1.0)
        bad = run("b", "Oslo?", [weather("Oslo"), said("Sun.")], 0.0)
        [pair] = self.pairs(good, bad)
        assert pair.messages[-1]["content"] == "Rain." and pair.rejected == said("Sun.")
        assert [message["role"] for message in pair.messages] == ["system", "user", "assistant", "tool", "assistant"]
        assert {"req-g-1", "req-b-1", "g/0", "b/0"} <= set(pair.record_ids)
        assert pair.sessions == ["of-b", "of-g"]

    def test_the_same_world_and_the_same_words_make_no_pair(self) -> None:
        good = run("g", "Oslo?", [weather("Oslo"), said("Rain.")], 1.0)
        other = run("b", "Oslo?", [weather("Oslo"), said("Sun.")], 0.0, results=["a cloud"])
        assert self.pairs(good, other) == []

    def test_a_branch_is_worth_what_its_runs_are_on_average(self) -> None:
        lucky = run("a", "Oslo?", [weather("Oslo"), said("Rain.")], 1.0)
        unlucky = [run(f"u{n}", "Oslo?", [weather("Oslo"), said(f"No {n}.")], 0.0) for n in range(3)]
        other = run("o", "Oslo?", [weather("Rome"), said("Sun.")], 0.5)
        first, *rest = sorted(self.pairs(lucky, *unlucky, other), key=lambda pair: len(pair.messages))
        # 0.25 behind Oslo against 0.5 behind Rome is less than the gap; behind Oslo, 1.0 against 0.0.
        assert first.messages[-1]["content"] == "Rain." and not rest

    def test_a_row_of_a_pair_learns_the_last_turn_alone(self) -> None:
        good = run("g", "Oslo?", [weather("Oslo"), said("Rain.")], 1.0)
        bad = run("b", "Oslo?", [weather("Oslo"), said("Sun.")], 0.0)
        [pair] = self.pairs(good, bad)
        row = prepare_run(trajectories.msgspec.json.encode(pair).decode(), CurationSettings())
        messages = json.loads(row["messages"])
        assert Row("r", messages, [], [], "run", "s", "a").learnt == [4]
        assert json.loads(row["rejected"]) == said("Sun.")


def test_the_recipe_for_agents_is_valid() -> None:
    recipe = Recipe.load(find("agents"))
    assert recipe.curation.runs.learn == "trajectories" and recipe.training.mention_replacement == 0


# On a real log


def many(count: int, template: str | None = None, first: int = 0, reward: float = 1.0) -> list[Entry]:
    """Runs of two turns with tasks of their own."""
    entries: list[Entry] = []
    for n in range(first, first + count):
        city, song = CITIES[n % 12], SONGS[n // 12 % 12]
        task = f"{n * 7919 % 9973}: is it {song} weather at {n * 104729 % 99991} {city} road, house {n}?"
        answers = [call("get_weather", city=city, day=str(n)), said(f"{song} it is, {n}.")]
        entries += run(f"run{n}", task, answers, reward, template=template, time=START + 10 * n, tokens=True)
    return entries


def make(state: Path, entries: list[Entry] | None = None, **curation: Any) -> Dataset:
    if entries is not None:
        write(state, entries)
    curation = {"replay": {"share": 0}, "min_rows": 8, **curation}
    begun = Run.open(Settings(state=state), Recipe.model_validate({"curation": curation}), "test", say=lambda _: None)
    try:
        return curate(begun, collect(begun))
    finally:
        begun.update(state="done")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.timeout(300)
class TestOnALog:
    def test_runs_and_answers_are_learnt_beside_each_other(self, tmp_path: Path) -> None:
        unrewarded = run("none", "what?", [said("nothing")])
        bad = many(6, first=500, reward=0.0)
        dataset = make(tmp_path, [*corrected(120), *many(60), *unrewarded, *bad])
        train, held, made = dataset.train(), dataset.holdout(), manifest(dataset.path)
        runs = [row for row in train if row.origin == "run"]
        assert runs and {row.slice for row in train} == {"agent:shop", "play", "get_weather"}
        assert made["dropped"]["low reward"] == 6
        assert all(len(row.learnt) == 2 for row in runs)
        assert not {row.session for row in train} & {row.session for row in held}
        assert not {i for row in train for i in row.record_ids} & {i for row in held for i in row.record_ids}
        asked = [row for row in held if row.origin == "run"]
        assert asked and all(row.learnt == [len(row.messages) - 1] for row in asked)
        assert {len(row.messages) for row in asked} == {3, 5}, "each turn of a held-out run is asked"
        assert set(dataset.sampled()) == {row.row_id for row in runs}

    def test_whole_templates_of_tasks_are_held_out_and_whatever_was_said_with_them(self, tmp_path: Path) -> None:
        entries = [entry for k in range(8) for entry in many(10, f"job-{k}", first=20 * k)]
        # In each run's session its user goes on, and corrects an answer.
        for n in range(0, 160, 5):
            talk = f"{n * 6761 % 9901} thanks, and now play {SONGS[n % 12]} {n}"
            right = call("play", song=f"{SONGS[n % 12]} {n}")
            entries += [record(n, talk, session=f"of-run{n}"), feedback(n, correction=right)]
        dataset = make(tmp_path, entries, holdout={"min_rows": 4})
        templates = {each.run: each.template for each in told(entries).values()}
        held = {templates[row.session.removeprefix("of-")] for row in dataset.holdout() if row.origin == "run"}
        learnt = [row for row in dataset.train() if row.session.startswith("of-")]
        assert held and learnt
        assert not held & {templates.get(row.session.removeprefix("of-")) for row in learnt}
        assert {f"task:{name}" for name in held} <= holdout.read(tmp_path, "assistant").sessions
        again = make(tmp_path, many(20, "job-9", first=400), holdout={"min_rows": 4})
        assert again.holdout() == dataset.holdout() and again.rows > dataset.rows

    def test_feedback_on_an_answer_rewards_its_run(self, tmp_path: Path) -> None:
        entries = many(60, reward=1.0)
        entries = [entry for entry in entries if not (isinstance(entry, Step) and entry.event == "reward")]
        entries += [
            feedback(0, 1.0, request_id=f"req-run{n}-1", time=START + 10 * n + 9, source="user") for n in range(60)
        ]
        dataset = make(tmp_path, entries)
        assert {row.origin for row in dataset.train()} == {"run"}

    def test_preferences_are_pairs_that_dpo_takes(self, tmp_path: Path) -> None:
        good = many(60)
        bad: list[Entry] = []
        for n in range(60):
            [task] = [e.body["task"] for e in good if isinstance(e, Step) and e.run == f"run{n}" and e.event == "start"]
            bad += run(f"bad{n}", task, [call("get_weather", city="Atlantis", day="0"), said("?")], 0.0)
        dataset = make(tmp_path, [*good, *bad], runs={"learn": "preferences"})
        rows = dataset.train()
        assert rows and all(row.rejected and "Atlantis" in json.dumps(row.rejected) for row in rows)
        assert all(len(row.messages) == 3 for row in rows)

    def test_the_dataset_is_the_same_for_any_order_of_the_log(self, tmp_path: Path) -> None:
        entries = [*corrected(120), *many(60, "a"), *many(60, "b", first=60)]
        one = make(tmp_path / "one", entries)
        random.Random(1).shuffle(entries)
        write(tmp_path / "two", entries[:300]).compact()
        two = make(tmp_path / "two", entries[300:])
        assert (one.digest, one.rows, one.holdout_rows) == (two.digest, two.rows, two.holdout_rows)
        # The draw is on disk, the dataset is not: as if the power went between the two.
        (one.path / "manifest.json").unlink()
        assert make(tmp_path / "one").digest == one.digest

    def test_a_log_without_runs_gives_what_it_always_gave(self, tmp_path: Path) -> None:
        dataset = make(tmp_path, corrected(200), min_rows=64)
        assert dataset.digest == DIGEST
        assert not (dataset.path / "sampled").exists()

    def test_without_rewards_there_is_nothing_to_learn(self, tmp_path: Path) -> None:
        with pytest.raises(TooLittle, match="holds no feedback"):
            make(tmp_path, run("a", "t", [said("ok")]))


DIGEST = "e575597b0e0badd53bd8a05092226a07c1e78d03c71a919d373820a2998c376f"
"""Of that dataset, before there were runs."""
