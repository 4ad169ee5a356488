"""What is next, from where a journal stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.agents.contract import Agent, RunLimits
from services.agents.journal import (
    Asked,
    Called,
    Claim,
    Decided,
    Event,
    Heard,
    Progress,
    Resulted,
    Start,
    Thought,
    calls,
    fold,
)
from services.agents.loop import Model, Turn, fitting, over, work
from services.agents.permits import Permits
from services.agents.tools import Caller, Invocation, Result, Tool, Toolbox
from tests.services.agents.scripted import Listed, Scripted, call, noting, says
from tests.services.agents.test_journal import step

AGENT = Agent(description="x", limits=RunLimits(turns=6))
TYPED = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}, "to": {"enum": ["a", "b"]}},
    "required": ["count"],
    "additionalProperties": False,
}


class Desk:
    """A journal in memory."""

    def __init__(self, model: Model, tools: list[Tool], permits: Permits, steps: list[Any]) -> None:
        self.model, self.tools, self.permits, self.steps = model, Toolbox(tools), permits, list(steps)
        self.run = fold(self.steps)
        self.wrote: list[Event] = []
        self.lost = False

    async def write(self, *events: Event) -> None:
        self.hold()
        for event in events:
            self.steps.append(step(self.run.number, event, self.run.owner, time=self.run.updated))
            self.run.take(self.steps[-1])
        self.wrote += events

    def hold(self) -> None:
        if self.lost:
            raise RuntimeError("somebody else's")

    def caller(self) -> Caller | None:
        return Caller("anna", ("agents",), "clerk", "", "run-1", "t")

    def lately(self, tool: str) -> int:
        return 41


def begun(*events: Event, **limits: Any) -> list[Any]:
    start = Start("do it", [{"role": "user", "content": "do it"}], RunLimits(**limits).model_dump())
    return [step(number, event, time=0) for number, event in enumerate([start, *events])]


async def worked(desk: Desk) -> Progress:
    await work(desk.run, AGENT, desk)
    return desk.run


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []


async def test_a_call_that_does_not_fit_goes_back_to_the_model_which_repairs_it(
    tmp_path: Path, notes: Callable[[], list[str]]
) -> None:
    model = Scripted.of(
        says(None, call("note", "{oops")),
        says(None, call("note", {})),
        says(None, call("note", {"text": "x"})),
        says("ok"),
    )
    run = await worked(desk := Desk(model, [noting(tmp_path / "notes", "note")], Listed(("note",)), begun()))
    assert (run.state, run.turns, run.repairs, len(notes())) == ("completed", 4, 0, 1)
    told = [event.content for event in desk.wrote if isinstance(event, Resulted)]
    assert told[0].startswith("Error: the arguments of note are not JSON (Expecting property name")
    assert told[1] == "Error: the arguments of note do not fit: 'text' is a required property"
    assert len(desk.permits.seen) == 1, "a policy is asked only about calls that fit"  # type: ignore[attr-defined]


async def test_repairs_are_bounded_and_nothing_of_the_last_turn_is_done(
    tmp_path: Path, notes: Callable[[], list[str]]
) -> None:
    model = Scripted(lambda turn: says(None, call("note", {}), call("note", {"text": "x"}, "d")))
    run = await worked(Desk(model, [noting(tmp_path / "notes", "note")], Listed(("note",)), begun(repairs=1)))
    assert (run.state, run.turns) == ("failed", 2)
    assert run.reason == "the model wrote calls that do not fit their tools 2 times in a row"
    assert len(notes()) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "complaint"),
    [
        ("typed", '{"count": 1}', None),
        ("typed", '{"count": 1, "to": "a"}', None),
        ("typed", "", "'count' is a required property"),
        ("typed", '{"count": 0}', "count: 0 is less than the minimum of 1"),
        ("typed", '{"count": "1"}', "count: '1' is not of type 'integer'"),
        ("typed", '{"count": 1, "to": "c"}', "to: 'c' is not one of"),
        ("typed", '{"count": 1, "x": 1}', "Additional properties are not allowed"),
        ("typed", "[1]", "must be one JSON object"),
        ("typed", '{"count": 1} trailing', "are not JSON"),
        ("typed", "[" * 100_000, "are not JSON"),
        ("none", "{}", "there is no tool called 'none'; there are: typed, far"),
        ("far", "{}", "its schema is broken"),
    ],
)
def test_arguments_fit_their_schema_or_the_model_learns_why(tool: str, arguments: str, complaint: str | None) -> None:
    async def run(invocation: Invocation) -> Result:
        raise AssertionError

    far: dict[str, Any] = {"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}
    tools = Toolbox([Tool("typed", "", TYPED, run, "function:t"), Tool("far", "", far, run, "function:t")])
    (wanted,) = calls("run-1", 1, {"tool_calls": [call(tool, arguments)]})
    fits = fitting(wanted, tools.get(tool), tools)
    if complaint is None:
        assert isinstance(fits, dict)
    else:
        assert isinstance(fits, str) and complaint in fits


async def test_what_the_policy_says_is_recorded_with_its_reason(tmp_path: Path) -> None:
    tools = [noting(tmp_path / "notes", name) for name in ("may", "ask", "never")]
    model = Scripted.of(says(None, *(call(t.name, {"text": "x"}, t.name) for t in tools)), says("ok"))
    permits = Listed(("may",), ("ask",))
    desk = Desk(model, tools, permits, begun())
    run = await worked(desk)
    decided = [(e.tool, e.effect, e.policies, e.tool_version) for e in desk.wrote if isinstance(e, Decided)]
    assert decided == [
        ("may", "permit", ("listed",), tools[0].version),
        ("ask", "ask", ("asked",), tools[1].version),
        ("never", "deny", (), tools[2].version),
    ]
    assert run.state == "input-required" and isinstance(desk.wrote[-1], Asked), "what may be done was done first"
    assert [event.tool for event in desk.wrote if isinstance(event, Resulted)] == ["never", "may"]
    assert [(ask.calls_in_run, ask.calls_last_minute) for ask in permits.seen] == [(0, 41)] * 3
    assert permits.seen[0].invocation.caller.version == "tiny@1", "the version that wrote the call"


CALL = says(None, call("note", {"text": "x"}))
PERMIT = Decided("run-1.1.0", "note", "v", "permit", ("p",), "")
ASK = Decided("run-1.1.0", "note", "v", "ask", ("p",), "")
MADE = Called("run-1.1.0", "note")


@pytest.mark.parametrize(
    ("idempotent", "events", "state", "effects"),
    [
        (False, [], "completed", 1),
        (False, [CALL], "completed", 1),
        (False, [CALL, PERMIT], "completed", 1),
        (False, [CALL, PERMIT, MADE], "input-required", 0),
        (True, [CALL, PERMIT, MADE], "completed", 1),
        (False, [CALL, PERMIT, MADE, Resulted("run-1.1.0", "note", "noted x")], "completed", 0),
        (False, [CALL, ASK], "input-required", 0),
        (False, [CALL, ASK, Asked("?", "run-1.1.0"), Heard("a", "run-1.1.0", approved=True)], "completed", 1),
        (False, [CALL, ASK, Asked("?", "run-1.1.0"), Heard("a", "run-1.1.0", approved=False)], "completed", 0),
    ],
)
async def test_a_journal_that_breaks_off_anywhere_is_gone_on_with(
    tmp_path: Path, notes: Callable[[], list[str]], idempotent: bool, events: list[Event], state: str, effects: int
) -> None:
    steps = begun(*events)
    steps.append(step(len(steps), Claim("one"), "two", time=0))
    model = Scripted.of(CALL, says("ok"))
    run = await worked(Desk(model, [noting(tmp_path / "notes", "note", idempotent)], Listed(("note",)), steps))
    assert (run.state, len(notes())) == (state, effects)
    assert notes() == ["note run-1.1.0"] * effects, "always as the same operation"


@pytest.mark.parametrize(
    ("heard", "effects", "told"),
    [
        (Heard("a", "run-1.1.0", approved=True, result="noted x"), 0, "noted x"),
        (Heard("a", "run-1.1.0", approved=True), 1, "noted x"),
        (Heard("a", "run-1.1.0", approved=False), 0, "Nobody knows whether this call took place"),
    ],
)
async def test_after_a_crash_in_the_middle_of_a_call_a_person_says_what_became_of_it(
    tmp_path: Path, notes: Callable[[], list[str]], heard: Heard, effects: int, told: str
) -> None:
    steps = begun(CALL, PERMIT, MADE)
    steps.append(step(4, Claim("one"), "two", time=0))
    model = Scripted.of(CALL, says("ok"))
    desk = Desk(model, [noting(tmp_path / "notes", "note")], Listed(("note",)), steps)
    await work(desk.run, AGENT, desk)
    assert desk.run.question and "Did the call take place?" in desk.run.question
    await desk.write(heard)
    run = await worked(desk)
    assert (run.state, len(notes())) == ("completed", effects)
    assert told in model.turns[-1].messages[-1]["content"]


async def test_who_is_not_the_owner_any_more_has_no_effect(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    desk = Desk(Scripted.of(CALL), [noting(tmp_path / "notes", "note")], Listed(("note",)), begun(CALL, PERMIT, MADE))
    desk.lost = True
    with pytest.raises(RuntimeError, match="somebody else's"):
        await work(desk.run, AGENT, desk)
    assert notes() == []


async def test_an_answer_that_was_cut_off_says_so() -> None:
    run = await worked(Desk(Scripted.of(says("and then", finish_reason="length")), [], Listed(), begun()))
    assert (run.state, run.answer, run.reason) == ("completed", "and then", "the answer was cut off at 512 tokens")


async def test_the_last_turn_gets_no_more_tokens_than_are_left() -> None:
    asked: list[int] = []

    def script(turn: Turn) -> Thought:
        asked.append(turn.max_tokens)
        return says("ok")

    await worked(Desk(Scripted(script), [], Listed(), begun(tokens=100)))
    assert asked == [100]


def test_limits_are_said_in_words() -> None:
    run = fold(begun(turns=1, tokens=5, seconds=2))
    assert over(run) is None
    run.turns = 1
    assert over(run) == "it took 1 turns, its limit"
    run.turns, run.tokens = 0, 6
    assert over(run) == "it spent 6 tokens, its limit is 5"
    run.tokens, run.seconds = 0, 3.0
    assert over(run) == "it worked for 3 s, its limit is 2 s"
