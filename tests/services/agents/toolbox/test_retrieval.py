"""Memory is searched for the caller, and its passages come with their sources."""

from __future__ import annotations

from services.agents.memory.passages import Passage
from services.agents.toolbox.retrieval import retrieve
from tests.services.agents.asking import call, caller


class Shelf:
    """A memory of what two people like."""

    def __init__(self) -> None:
        self.passages = {"ada": [Passage("Ada likes tea.", "note-1", 0.9), Passage("Black tea.", "note-2", 0.5)]}

    async def search(self, principal: str, query: str, count: int) -> list[Passage]:
        return self.passages.get(principal, [])[:count]


async def test_passages_come_with_their_sources() -> None:
    said = await retrieve(Shelf()).run(call(caller("ada"), query="tea"))
    assert said.content == "[1] note-1\nAda likes tea.\n\n[2] note-2\nBlack tea."
    assert said.structured[0] == {"text": "Ada likes tea.", "source": "note-1", "score": 0.9}


async def test_no_more_than_asked_for() -> None:
    assert len((await retrieve(Shelf()).run(call(caller("ada"), query="tea", count=1))).structured) == 1


async def test_nobody_finds_anothers() -> None:
    said = await retrieve(Shelf()).run(call(caller("bob"), query="tea"))
    assert (said.content, said.failed) == ("Nothing was found.", False)
