"""Runs as everybody else reaches them: started, followed, asked, answered, cancelled, taken over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from cluster.auth import Principal
from cluster.log import Log
from cluster.records import Step
from services.agents.contract import Agent, Busy, RunLimits, View
from services.agents.journal import Thought
from services.agents.loop import ModelError, Turn
from services.agents.run import Pool
from services.agents.tools import Invocation, Result, Tool, Toolbox, ToolError
from tests.services.agents.scripted import ADMIN, ANNA, BOB, Listed, Scripted, call, noting, pool, says


@asynccontextmanager
async def opened(given: Pool) -> AsyncIterator[Pool]:
    await given.open()
    try:
        yield given
    finally:
        await given.close()


async def rests(given: Pool, run: str, who: Principal = ADMIN) -> View:
    """The run once it has ended, or waits."""
    async with asyncio.timeout(30):
        async for _ in given.follow(who, run):
            pass
    return await given.get(who, run)


async def events(given: Pool, run: str) -> list[str]:
    return [step.event async for step in given.follow(ADMIN, run)]


def effects(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Linked:
    """Pools that reach each other, as replicas do."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        return await asyncio.gather(*(each.peer(method, *arguments) for each in self.pools))


async def test_a_run_calls_its_tools_and_answers(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"}), call("note", {"text": "b"}, "d")), says("done"))
    async with opened(pool(state, model, noting(tmp_path / "notes", "note"))) as runs:
        begun = await runs.start(ANNA, "clerk", "note a and b")
        assert begun.state == "working" and begun.task == "note a and b"
        ended = await rests(runs, begun.id)
        assert (ended.state, ended.answer, ended.turns, ended.tokens) == ("completed", "done", 2, 20)
        assert len(effects(tmp_path / "notes")) == len(set(effects(tmp_path / "notes"))) == 2
        told = [message for message in model.turns[1].messages if message["role"] == "tool"]
        assert [message["tool_call_id"] for message in told] == ["c", "d"]
        assert told[0]["content"] == '<tool_result tool="note">\nnoted a\n</tool_result>'
        assert "never an instruction" in model.turns[0].messages[0]["content"]
        assert await events(runs, begun.id) == [
            *("start", "model", "decision", "call", "decision", "call", "result", "result", "model", "end"),
        ]


async def test_every_step_is_in_the_log_and_comes_into_the_table(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"})), says("done"))
    async with opened(pool(state, model, noting(tmp_path / "notes", "note"))) as runs:
        begun = await runs.start(ANNA, "clerk", "note a", thread="t1")
        await rests(runs, begun.id)
    log = Log(state / "log")
    before = list(log.entries())
    log.compact()
    steps = list(log.read())
    assert steps == before and all(isinstance(step, Step) for step in steps)
    assert [step.request_id for step in steps] == [f"{begun.id}/{n}" for n in range(7)]  # type: ignore[union-attr]
    assert {(step.principal, step.session) for step in steps} == {("anna", "t1")}  # type: ignore[union-attr]
    assert log.stats().steps == 7 and log.stats().records == 0
    async with opened(pool(state, model)) as later:
        old = await later.get(ANNA, begun.id)
        assert (old.state, old.answer, old.turns) == ("completed", "done", 2), "an ended run is read from the table"
        assert [view.id for view in await later.list(ANNA)] == [begun.id]
        assert await events(later, begun.id) == [step.event for step in steps]  # type: ignore[union-attr]


async def test_a_thread_remembers_its_earlier_runs_but_not_those_of_others(state: Path) -> None:
    model = Scripted(lambda turn: says(f"answer {len(turn.messages)}"))
    async with opened(pool(state, model)) as runs:
        for who, task in ((ANNA, "one"), (BOB, "secret"), (ANNA, "two")):
            await rests(runs, (await runs.start(who, "clerk", task, thread="t")).id)
    assert [message["content"] for message in model.turns[2].messages] == ["one", "answer 1", "two"]


async def test_the_same_id_is_the_same_run_and_nobody_elses(state: Path) -> None:
    async with opened(pool(state, Scripted.of(says("done")))) as runs:
        first, again = await asyncio.gather(
            runs.start(ANNA, "clerk", "x", run="mine"), runs.start(ANNA, "clerk", "x", run="mine")
        )
        other = await runs.start(BOB, "clerk", "x", run="mine")
        assert first.id == again.id != other.id
        assert (await runs.get(ANNA, "mine")).id == first.id
        await rests(runs, first.id)
        assert len(await runs.list(ADMIN)) == 2


async def test_another_principals_run_is_unknown(state: Path) -> None:
    async with opened(pool(state, Scripted.of(says("done")))) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        await rests(runs, run)
        with pytest.raises(KeyError):
            await runs.get(BOB, run)
        with pytest.raises(KeyError):
            await runs.cancel(BOB, run)
        with pytest.raises(KeyError):
            [step async for step in runs.follow(BOB, run)]
        assert await runs.list(BOB) == [] and [view.id for view in await runs.list(ADMIN)] == [run]


async def test_what_needs_approval_waits_for_it(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"})), says("done"))
    asks = Listed(asked=("note",))
    async with opened(pool(state, model, noting(tmp_path / "notes", "note"), permits=asks)) as runs:
        for approved, wanted in ((True, 1), (False, 1)):
            run = (await runs.start(ANNA, "clerk", "note a")).id
            waiting = await rests(runs, run)
            assert (waiting.state, waiting.wants) == ("input-required", "approval") and waiting.question
            assert waiting.question.startswith('May note be called with {"text": "a"}? Somebody must look')
            with pytest.raises(ValueError, match="wants a yes or no"):
                await runs.say(ANNA, run, "yes")
            await runs.approve(ANNA, run, approved)
            assert (await rests(runs, run)).state == "completed"
            assert len(effects(tmp_path / "notes")) == wanted
            with pytest.raises(ValueError, match="asks nothing now"):
                await runs.approve(ANNA, run, True)
    assert "A person declined this call" in model.turns[-1].messages[-1]["content"]


async def test_an_agent_asks_a_person_in_words(state: Path) -> None:
    model = Scripted.of(says(None, call("ask_person", {"question": "Which one?"})), says("done"))
    agents = {"clerk": Agent(description="x", tools=("ask_person",))}
    async with opened(pool(state, model, agents=agents, permits=Listed(("ask_person",)))) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        waiting = await rests(runs, run)
        assert (waiting.question, waiting.wants) == ("Which one?", "words")
        with pytest.raises(ValueError, match="wants an answer in words"):
            await runs.approve(ANNA, run, True)
        await runs.say(ANNA, run, "the blue one")
        assert (await rests(runs, run)).state == "completed"
    assert "the blue one" in model.turns[1].messages[-1]["content"]


async def test_what_no_policy_permits_is_not_done_and_the_model_is_told(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"})), says("sorry"))
    async with opened(pool(state, model, noting(tmp_path / "notes", "note"), permits=Listed())) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        assert (await rests(runs, run)).answer == "sorry"
        assert await events(runs, run) == ["start", "model", "decision", "result", "model", "end"]
    assert effects(tmp_path / "notes") == []
    assert model.turns[1].messages[-1]["content"] == "Not allowed: nothing permits note"


async def test_a_run_is_cancelled_in_the_middle_of_a_call_with_its_sub_agents(state: Path) -> None:
    began = asyncio.Event()

    async def forever(invocation: Invocation) -> Result:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    slow = Tool("slow", "Takes long.", {"type": "object"}, forever, "function:tests")

    def script(turn: Turn) -> Thought:
        return says(None, call("slow") if turn.messages[-1]["content"] == "part" else call("spawn_b", {"task": "part"}))

    agents = {"a": Agent(description="a", tools=("spawn_b",)), "b": Agent(description="b", tools=("slow",))}
    permits = Listed(("slow", "spawn_b"))
    async with opened(pool(state, Scripted(script), slow, agents=agents, permits=permits)) as runs:
        run = (await runs.start(ANNA, "a", "all")).id
        await began.wait()
        child = next(view for view in await runs.list(ANNA) if view.parent == run)
        assert child.state == "working"
        assert (await runs.cancel(ANNA, run)).state == "canceled"
        assert (await runs.get(ANNA, child.id)).state == "canceled"
        with pytest.raises(ValueError, match="has ended already: canceled"):
            await runs.cancel(ANNA, run)


async def test_a_sub_agent_answers_within_a_share_of_its_parents_limits(state: Path) -> None:
    def script(turn: Turn) -> Thought:
        if turn.messages[-1]["content"] == "part":
            return says("forty-two", tokens=100)
        return says("done") if turn.messages[-1]["role"] == "tool" else says(None, call("spawn_b", {"task": "part"}))

    own = RunLimits(tokens=4000)
    agents = {
        "a": Agent(description="a", tools=("agent:b/*",), limits=own),
        "b": Agent(description="b", limits=RunLimits(turns=3)),
    }
    async with opened(pool(state, Scripted(script), agents=agents, permits=Listed(("spawn_b",)))) as runs:
        run = (await runs.start(ANNA, "a", "all")).id
        ended = await rests(runs, run)
        assert (ended.state, ended.tokens) == ("completed", 10 + 100 + 10), "a sub-agent's tokens are its parent's too"
        child = next(view for view in await runs.list(ANNA) if view.parent == run)
        (start,) = [step async for step in runs.follow(ANNA, child.id) if step.event == "start"]
        assert start.body["limits"] | {"seconds": 0} == {
            **{"turns": 3, "tokens": 1995, "seconds": 0, "repairs": 2, "children": 4}
        }


async def test_a_sub_agents_question_reaches_whoever_asked_its_parent(state: Path) -> None:
    def script(turn: Turn) -> Thought:
        last = turn.messages[-1]
        if last["role"] == "tool":
            return says(f"heard {'blue' in last['content']}, so blue")
        child = last["content"] == "part"
        return says(None, call("ask_person", {"question": "Which?"}) if child else call("spawn_b", {"task": "part"}))

    agents = {"a": Agent(description="a", tools=("spawn_b",)), "b": Agent(description="b", tools=("ask_person",))}
    permits = Listed(("ask_person", "spawn_b"))
    async with opened(pool(state, Scripted(script), agents=agents, permits=permits)) as runs:
        run = (await runs.start(ANNA, "a", "all")).id
        assert (await rests(runs, run)).question == "b asks: Which?"
    async with opened(pool(state, Scripted(script), agents=agents, permits=permits)) as runs:
        assert (await runs.get(ANNA, run)).question == "b asks: Which?", "also after a restart of everything"
        await runs.say(ANNA, run, "blue")
        async with asyncio.timeout(30):
            while (await rests(runs, run)).state != "completed":
                await asyncio.sleep(0.01)
        assert (await runs.get(ANNA, run)).answer == "heard True, so blue"


async def test_any_process_answers_for_any_run(state: Path) -> None:
    links, release = Linked(), asyncio.Event()

    class Slow:
        async def __call__(self, turn: Turn) -> Thought:
            await release.wait()
            return says("done")

    async with opened(pool(state, Slow(), peers=links)) as one, opened(pool(state, Slow(), peers=links)) as two:
        links.pools = [one, two]
        run = (await one.start(ANNA, "clerk", "x", run="mine")).id
        assert (await two.get(ANNA, run)).state == "working"
        assert (await two.start(ANNA, "clerk", "x", run="mine")).id == run
        following = asyncio.create_task(events(two, run))
        await asyncio.sleep(0)
        release.set()
        assert await following == ["start", "model", "end"]
        assert [view.state for view in await two.list(ANNA)] == ["completed"]
        second = (await one.start(ANNA, "clerk", "y")).id
        await rests(two, second)
        with pytest.raises(ValueError, match="has ended already"):
            await two.cancel(ANNA, second)


async def test_what_a_process_leaves_another_goes_on_with(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"})), says("done"))
    asks = Listed(asked=("note",))
    note = noting(tmp_path / "notes", "note")
    async with opened(pool(state, model, note, permits=asks)) as first:
        run = (await first.start(ANNA, "clerk", "note a")).id
        await rests(first, run)
    for _ in range(2):  # one that only looks inherits it, and leaves it in turn
        async with opened(pool(state, model, note, permits=asks)) as later:
            assert (await later.get(ANNA, run)).state == "input-required"
        Log(state / "log").compact()
    async with opened(pool(state, model, note, permits=asks)) as last:
        await last.approve(ANNA, run, True)
        assert (await rests(last, run)).state == "completed"
        assert (await events(last, run)).count("claim") == 3
    assert len(effects(tmp_path / "notes")) == 1
    assert list((state / "agents" / "owners").iterdir()) == [], "nothing is left to inherit"


async def test_an_owner_that_was_taken_for_dead_does_nothing_more(state: Path, tmp_path: Path) -> None:
    model = Scripted.of(says(None, call("note", {"text": "a"})), says("done"))
    note, asks = noting(tmp_path / "notes", "note"), Listed(asked=("note",))
    async with opened(pool(state, model, note, permits=asks)) as first:
        run = (await first.start(ANNA, "clerk", "note a")).id
        await rests(first, run)
        assert first.own.ownership._lock
        first.own.ownership._lock.release()  # as a shared disk does with the lock of a machine that it does not hear of
        first.own.ownership._lock = None
        async with opened(pool(state, model, note, permits=asks)) as second:
            with pytest.raises(KeyError):
                await first.approve(BOB, run, True)
            assert await first.peer("approve", ANNA, run, True, None) is None
            await second.approve(ANNA, run, True)
            assert (await rests(second, run)).state == "completed"
    assert len(effects(tmp_path / "notes")) == 1


async def test_limits_end_a_run(state: Path, tmp_path: Path) -> None:
    model = Scripted(lambda turn: says(None, call("note", {"text": "again"}), tokens=100))
    note = noting(tmp_path / "notes", "note")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"turns": 3}, "it took 3 turns, its limit"),
        ({"tokens": 250}, "it spent 300 tokens, its limit is 250"),
    ]
    async with opened(pool(state, model, note)) as runs:
        for limits, reason in cases:
            run = (await runs.start(ANNA, "clerk", "x", limits=RunLimits(**limits))).id
            ended = await rests(runs, run)
            assert (ended.state, ended.reason, ended.turns) == ("failed", reason, 3)
        with pytest.raises(ValueError, match=r"limits\.turns is at most 16"):
            await runs.start(ANNA, "clerk", "x", limits=RunLimits(turns=17))

    class Never:
        async def __call__(self, turn: Turn) -> Thought:
            await asyncio.Event().wait()
            raise AssertionError

    async with opened(pool(state, Never())) as runs:
        run = (await runs.start(ANNA, "clerk", "x", limits=RunLimits(seconds=0.05))).id
        assert (await rests(runs, run)).reason == "it worked for 0.05 s, its limit"


async def test_what_goes_wrong_is_said(state: Path) -> None:
    def script(turn: Turn) -> Thought:
        if turn.messages[-1]["role"] == "user":
            return says(None, *(call(name, {}, name) for name in ("broken", "refuses", "slow")))
        return says(json.dumps([message["content"] for message in turn.messages if message["role"] == "tool"]))

    async def broken(invocation: Invocation) -> Result:
        raise RuntimeError("a secret of the server")

    async def refuses(invocation: Invocation) -> Result:
        raise ToolError("there is no such thing; look it up first")

    async def slow(invocation: Invocation) -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    free: dict[str, Any] = {"type": "object"}
    tools = [
        Tool("broken", "x", free, broken, "function:tests"),
        Tool("refuses", "x", free, refuses, "function:tests"),
        Tool("slow", "x", free, slow, "function:tests", timeout_s=0.05),
    ]
    async with opened(pool(state, Scripted(script), *tools)) as runs:
        said = (await rests(runs, (await runs.start(ANNA, "clerk", "x")).id)).answer or ""
        assert "broken failed" in said and "secret" not in said
        assert "look it up first" in said
        assert "slow did not answer within 0.05 s; whether it took effect is not known" in said

    class Refuses:
        async def __call__(self, turn: Turn) -> Thought:
            raise ModelError("the context is too long")

    async with opened(pool(state, Refuses())) as runs:
        assert (await rests(runs, (await runs.start(ANNA, "clerk", "x")).id)).reason == "the context is too long"
        with pytest.raises(ValueError, match="a thread's name is"):
            await runs.start(ANNA, "clerk", "x", thread="two\nlines")
        with pytest.raises(KeyError, match="there is no agent nobody; there are: clerk"):
            await runs.start(ANNA, "nobody", "x")


async def test_a_run_of_a_revoked_key_ends(state: Path) -> None:
    async with opened(pool(state, Scripted.of(says("done")), principals=())) as runs:
        assert (
            await rests(runs, (await runs.start(ANNA, "clerk", "x")).id)
        ).reason == "there is no key of anna any more"


async def test_too_many_runs_are_refused_and_those_that_ended_make_room(state: Path) -> None:
    asks = Scripted.of(says(None, call("ask_person", {"question": "?"})), says("done"))
    agents = {"clerk": Agent(description="x", tools=("ask_person",))}
    async with opened(pool(state, asks, agents=agents, permits=Listed(("ask_person",)), most=1)) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        await rests(runs, run)
        with pytest.raises(Busy, match="1 runs are under way"):
            await runs.start(ANNA, "clerk", "y")
        await runs.say(ANNA, run, "well")
        assert (await rests(runs, run)).state == "completed"
        await runs.start(ANNA, "clerk", "y")


async def test_a_reward_can_be_given_after_the_end(state: Path) -> None:
    async with opened(pool(state, Scripted.of(says("done")))) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        await rests(runs, run)
        await runs.reward(ANNA, run, 1.0, "checker")
    async with opened(pool(state, Scripted.of())) as later:
        await later.reward(ANNA, run, 0.5, "user")
        steps = [step async for step in later.follow(ANNA, run)]
        assert [step.body["score"] for step in steps if step.event == "reward"] == [1.0, 0.5]
        assert (await later.get(ANNA, run)).state == "completed"


async def test_the_wheel_finds_rewards_in_the_table_without_reading_bodies(state: Path) -> None:
    async with opened(pool(state, Scripted.of(says("done")))) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        await rests(runs, run)
        await runs.reward(ANNA, run, 0.25, "checker")
    log = Log(state / "log")
    log.compact()
    rows = DeltaTable(log.table_uri).to_pyarrow_table(columns=["kind", "score", "session"]).to_pylist()
    assert [row for row in rows if row["score"] is not None] == [{"kind": "step", "score": 0.25, "session": run}]


async def test_odd_characters_of_a_tool_lose_no_step(state: Path) -> None:
    async def odd(invocation: Invocation) -> Result:
        return Result("half a pair: \ud83d, a line\nand another")

    tool = Tool("odd", "x", {"type": "object"}, odd, "function:tests")
    async with opened(pool(state, Scripted.of(says(None, call("odd")), says("done")), tool)) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        assert (await rests(runs, run)).state == "completed"
    async with opened(pool(state, Scripted.of())) as later:
        (result,) = [step async for step in later.follow(ANNA, run) if step.event == "result"]
        assert result.body["content"] == "half a pair: \ufffd, a line\nand another"


async def test_one_broken_journal_does_not_keep_the_others_waiting(state: Path) -> None:
    asks = Scripted.of(says(None, call("ask_person", {"question": "?"})), says("done"))
    agents = {"clerk": Agent(description="x", tools=("ask_person",))}
    async with opened(pool(state, asks, agents=agents, permits=Listed(("ask_person",)))) as runs:
        run = (await runs.start(ANNA, "clerk", "x")).id
        await rests(runs, run)
        lost = Step(
            request_id="run-broken/0",
            time=time.time(),
            principal="anna",
            session="run-broken",
            run="run-broken",
            number=0,
            agent="clerk",
            source=runs.own.ownership.name,
            event="result",
            body={"operation": "run-broken.9.9", "tool": "x", "content": "of no call"},
        )
        await runs.own.writer.append(lost)
    async with opened(pool(state, asks, agents=agents, permits=Listed(("ask_person",)))) as later:
        await later.say(ANNA, run, "well")
        assert (await rests(later, run)).state == "completed"


async def test_runs_that_begin_after_an_agent_got_other_tools_are_offered_those(state: Path, tmp_path: Path) -> None:
    agents = {"clerk": Agent(description="x", tools=("note", "mcp:shop/*"))}
    model, note = Scripted.of(says("done")), noting(tmp_path / "notes", "note")
    async with opened(pool(state, model, note, agents=agents)) as runs:
        await rests(runs, (await runs.start(ANNA, "clerk", "x")).id)
        runs.equip(Toolbox([note, replace(noting(tmp_path / "notes", "find"), owner="mcp:shop")]))
        await rests(runs, (await runs.start(ANNA, "clerk", "x")).id)
        with pytest.raises(ValueError, match="there is no tool note"):
            runs.equip(Toolbox())
    offered = [[tool["function"]["name"] for tool in turn.tools] for turn in model.turns]
    assert offered == [["note"], ["note", "find"]]
