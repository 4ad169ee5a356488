"""Notes and files become passages; a title or a file again replaces what it said before."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import Settings
from services.agents.cli import agents
from services.agents.memory.remember import ingest, memories, remember
from services.agents.memory.settings import MemorySettings
from services.agents.memory.splitting import split
from services.agents.memory.vectors import Memories
from services.agents.settings import AgentsSettings
from services.agents.tools import Caller, Invocation, ToolError


@pytest.fixture
def memory(tmp_path: Path) -> Memories:
    return memories(MemorySettings(document_bytes=1_000), Settings(state=tmp_path))


def call(principal: str, **arguments: str) -> Invocation:
    return Invocation("op", arguments, Caller(principal, ("agents",), "shop", "assistant@0", "run", "s"))


async def test_an_agent_finds_its_note_later_and_another_principals_does_not(memory: Memories) -> None:
    tool = remember(memory)
    await tool.run(call("ann", title="mugs", text="Red mugs are sold out."))
    await tool.run(call("ann", title="mugs", text="Red mugs are back."))
    [found] = await memory.search("ann", "mugs", 5)
    assert (found.text, found.source) == ("Red mugs are back.", "shop: mugs")
    assert await memory.search("bob", "mugs", 5) == []
    await tool.run(call("ann", title="mugs", text=""))
    assert await memory.search("ann", "mugs", 5) == []


async def test_the_model_is_told_what_it_cannot_store(memory: Memories) -> None:
    with pytest.raises(ToolError, match="larger than 1000 bytes"):
        await remember(memory).run(call("ann", title="all", text="x" * 1_001))


async def test_a_file_that_is_no_text_stops_all_of_them_before_any_is_stored(memory: Memories, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.bin"
    good.write_text("A mug.")
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bad.bin cannot be read \(not text in UTF-8\)"):
        await ingest(memory, "ann", [good, bad])
    assert await memory.search("ann", "mug", 5) == []
    assert await ingest(memory, "ann", [good]) == [(str(good), 1)]


def test_the_command_stores_files_for_a_key_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path / "state"))
    file = tmp_path / "shop.md"
    file.write_text("Red mugs.\n\nBlue mugs.")
    monkeypatch.setattr("services.agents.cli._deployed", AgentsSettings)
    ran = CliRunner().invoke(agents, ["remember", str(file), "--for", "ann"])
    assert ran.exit_code == 0, ran.output
    assert f"{file}: 1 passages" in ran.output


def test_paragraphs_stay_together_while_they_fit() -> None:
    assert split("one\n\ntwo\n \n\nthree", 10) == ["one\n\ntwo", "three"]


def test_a_long_paragraph_is_cut_at_its_sentences() -> None:
    assert split("First one. Second one! Third?", 22) == ["First one. Second one!", "Third?"]
    assert split("aaaa bbbb cccc", 9) == ["aaaa bbbb", "cccc"]
    assert split("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


@given(st.text(alphabet="ab .\n!é", max_size=300), st.integers(5, 40))
def test_no_word_is_lost_and_no_passage_too_long(text: str, characters: int) -> None:
    passages = split(text, characters)
    assert all(0 < len(passage) <= characters for passage in passages)
    assert "".join("".join(passages).split()) == "".join(text.split())
