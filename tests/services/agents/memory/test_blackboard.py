"""A blackboard belongs to one tree of runs, stays within its bounds, and outlives whoever wrote on it."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from typing import Any

import pytest

from cluster.auth import Principal
from services.agents.contract import View
from services.agents.memory.blackboard import Blackboards, Tree
from services.agents.memory.settings import BoardSettings
from services.agents.memory.share import share_memory, tree_of
from services.agents.tools import Caller, Invocation, Result, ToolError
from services.detached import NAMESPACE
from tests.waiting import eventually

ANN, BOB = ("ann", "run-1"), ("bob", "run-1")


def boards(**given: Any) -> Blackboards:
    return Blackboards(BoardSettings(**given), lambda value: ("stored", value), lambda: 0.0)


def written(board: Blackboards, tree: Tree = ANN, key: str = "k", value: str = "v", operation: str = "") -> None:
    board.put(tree, key, value, "run-1", operation or uuid.uuid4().hex)


def test_what_one_run_writes_the_others_of_its_tree_read() -> None:
    board = boards()
    written(board, key="plan", value="go left")
    note = board.get(ANN, "plan")
    assert note and (note.inline, note.writer) == ("go left", "run-1")
    assert board.list(ANN) == [("plan", 7, "run-1")]


@pytest.mark.parametrize("other", [BOB, ("ann", "run-2"), ("ann", "run-11"), ("ann\0run-1", ""), ("an", "nrun-1")])
def test_no_other_tree_sees_it(other: Tree) -> None:
    board = boards()
    written(board)
    assert board.get(other, "k") is None and board.list(other) == []


def test_a_large_value_lies_elsewhere_and_the_board_refers_to_it() -> None:
    board = boards(inline_bytes=10)
    written(board, value="x" * 11)
    note = board.get(ANN, "k")
    assert note and note.inline is None and note.reference == ("stored", "x" * 11) and note.size == 11


def test_an_operation_that_comes_twice_changes_nothing_the_second_time() -> None:
    board = boards()
    written(board, value="first", operation="run-1.1.0")
    written(board, value="second")
    written(board, value="first", operation="run-1.1.0")
    note = board.get(ANN, "k")
    assert note and note.inline == "second"


@pytest.mark.parametrize(
    ("given", "put", "why"),
    [
        ({"value_bytes": 3}, {"value": "äää"}, "at most 3 bytes, and this one has 6"),
        ({"keys": 1}, {"key": "other"}, "holds 1 keys"),
        ({"board_bytes": 4}, {"key": "other", "value": "1234"}, "holds 4 bytes"),
        ({"key_characters": 4}, {"key": "other"}, "1 to 4 characters"),
        ({}, {"key": ""}, "1 to 128 characters"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_bound(given: dict[str, int], put: dict[str, str], why: str) -> None:
    board = boards(**given)
    written(board)
    with pytest.raises(ValueError, match=why):
        written(board, **put)
    assert board.list(ANN) == [("k", 1, "run-1")]


def test_a_value_makes_room_for_what_replaces_it() -> None:
    board = boards(board_bytes=4, keys=1)
    written(board, value="1234")
    written(board, value="5678")
    note = board.get(ANN, "k")
    assert note and note.inline == "5678"


def test_the_board_that_was_looked_at_last_stays_when_there_are_too_many() -> None:
    board = boards(boards=2)
    trees = [("ann", f"run-{n}") for n in range(3)]
    for tree in trees[:2]:
        written(board, tree)
    assert board.get(trees[0], "k")
    written(board, trees[2])
    assert [bool(board.list(tree)) for tree in trees] == [True, False, True]


def test_a_board_that_nobody_looks_at_goes() -> None:
    now = [0.0]
    board = Blackboards(BoardSettings(keep_s=10), str, lambda: now[0])
    written(board)
    now[0] = 9.0
    assert board.get(ANN, "k")
    now[0] = 18.0
    assert board.get(ANN, "k") and board.expire() == 1
    now[0] = 28.1
    assert board.get(ANN, "k") is None and board.expire() == 0


class Local:
    """Boards in this process."""

    def __init__(self) -> None:
        self._boards = Blackboards(BoardSettings(), lambda value: None)

    async def put(self, *given: Any) -> None:
        self._boards.put(*given)

    async def get(self, *given: Any) -> str | None:
        note = self._boards.get(*given)
        return note and note.inline

    async def list(self, *given: Any) -> Any:
        return self._boards.list(*given)

    async def drop(self, *given: Any) -> None:
        self._boards.drop(*given)


async def root(caller: Caller) -> str:
    return caller.run.partition(".")[0]


def call(run: str, principal: str = "ann", operation: str = "", **arguments: str) -> Invocation:
    caller = Caller(principal, ("agents",), "shop", "assistant@0", run, "s")
    return Invocation(operation or uuid.uuid4().hex, arguments, caller)


class Family:
    """Runs of which only the parents are known."""

    def __init__(self, **parents: str | None) -> None:
        self._parents = parents

    async def get(self, who: Principal, run: str) -> View:
        given = {"agent": "a", "principal": who.id, "thread": "t", "state": "working", "task": "t"}
        return View(id=run, parent=self._parents[run], created=0, updated=0, **given)


async def test_a_tree_is_found_by_its_runs_parents() -> None:
    find = tree_of(Family(top=None, child="top", grandchild="child", other=None))  # type: ignore[arg-type]
    asked = [call(run, action="list").caller for run in ("top", "child", "grandchild", "other")]
    assert [await find(caller) for caller in asked] == ["top", "top", "top", "other"]


class TestShareMemory:
    async def test_a_sub_agent_reads_what_its_parent_shared(self) -> None:
        tool = share_memory(Local(), root)
        await tool.run(call("run", action="put", key="plan", value="go left"))
        assert await tool.run(call("run.sub.deeper", action="get", key="plan")) == Result("go left")
        listed = await tool.run(call("run.other", action="list"))
        assert json.loads(listed.content) == listed.structured == [{"key": "plan", "bytes": 7, "by": "run"}]

    async def test_a_stranger_finds_nothing_whatever_it_writes(self) -> None:
        tool = share_memory(Local(), root)
        await tool.run(call("run", action="put", key="plan", value="go left"))
        for stranger in (call("other", action="get", key="plan"), call("run", "bob", action="get", key="plan")):
            with pytest.raises(ToolError, match="nothing is shared under 'plan'"):
                await tool.run(stranger)

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            ({"action": "get"}, "needs a key"),
            ({"action": "put", "key": "k"}, "needs a value"),
            ({"action": "put", "key": "", "value": "v"}, "1 to 128 characters"),
        ],
    )
    async def test_the_model_is_told_what_is_missing(self, arguments: dict[str, str], why: str) -> None:
        with pytest.raises(ToolError, match=why):
            await share_memory(Local(), root).run(call("run", **arguments))


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_on_ray_a_board_outlives_who_wrote_it_and_comes_back_empty_after_its_actor() -> None:
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    import ray

    from services.agents.memory import boards as on_ray

    settings = BoardSettings(inline_bytes=100, value_bytes=10_000)

    def ask(name: str, *question: Any) -> Any:
        """As a replica of its own would."""
        return asyncio.run(getattr(on_ray.RayBoards(settings), name)(*question))

    ray.init(num_cpus=1, include_dashboard=False, logging_level="warning", log_to_driver=False)
    try:
        writer = ray.remote(num_cpus=0)(Writer).remote()
        large = "ä" * 4_000
        ray.get([writer.write.remote(settings, key, value) for key, value in (("large", large), ("small", "tiny"))])
        ray.kill(writer)
        assert ask("get", ANN, "large") == large and ask("get", ANN, "small") == "tiny"
        assert ask("list", ANN) == [("large", 8_000, "run-1"), ("small", 4, "run-1")]
        assert ask("get", BOB, "large") is None
        with pytest.raises(ValueError, match=r"^a value has at most 10000 bytes"):
            ask("put", ANN, "k", "x" * 10_001, "run-1", "o")

        ray.kill(ray.get_actor(on_ray.NAME, NAMESPACE), no_restart=False)
        eventually(lambda: ask("list", ANN) == [], 60, "an empty board of the actor's next process")
        ask("put", ANN, "small", "again", "run-1", "small")
        assert ask("get", ANN, "small") == "again"
        ask("drop", ANN)
        assert ask("list", ANN) == []
        ray.kill(ray.get_actor(on_ray.NAME, NAMESPACE))
    finally:
        ray.shutdown()


class Writer:
    """A replica."""

    async def write(self, settings: BoardSettings, key: str, value: str) -> None:
        from services.agents.memory.boards import RayBoards

        await RayBoards(settings).put(ANN, key, value, "run-1", key)
