"""`sql` answers questions; whatever else is written into one changes nothing and shows nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.agents.toolbox.database import SqlSettings, sql
from services.agents.tools import Result, Tool, ToolError
from tests.services.agents.asking import call


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A shop whose file is, byte for byte, the same afterwards."""
    path = tmp_path / "shop #1?.db"
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.executescript(
            """CREATE TABLE goods (id INTEGER PRIMARY KEY, name TEXT, price REAL, picture BLOB);
            CREATE TABLE secrets (key TEXT);
            CREATE VIEW cheap AS SELECT name FROM goods WHERE price < 5;
            CREATE VIEW leak AS SELECT key FROM secrets;
            INSERT INTO goods VALUES (1, 'tea', 2.5, x'00ff'), (2, 'Käse', 7, NULL);
            INSERT INTO secrets VALUES ('sk-trivium-1');"""
        )
    before = hashlib.sha256(path.read_bytes()).digest()
    yield path
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert {each.name for each in tmp_path.iterdir()} == {path.name}


def tool(file: Path, tables: list[str] | None = None, **settings: Any) -> Tool:
    database = {"name": "shop", "file": str(file), "tables": tables or [], "description": "What we sell."}
    return sql(SqlSettings.model_validate({"databases": [database]} | settings))


async def ask(made: Tool, query: str, *parameters: Any) -> Result:
    return await made.run(call(database="shop", query=query, parameters=list(parameters)))


async def test_question_is_answered_with_columns_and_rows(file: Path) -> None:
    said = await ask(tool(file), "SELECT name, price, picture FROM goods WHERE price > ? ORDER BY id", 1)
    assert said.content == '["name", "price", "picture"]\n["tea", 2.5, "[2 bytes]"]\n["Käse", 7.0, null]'
    assert said.structured["rows"][1] == ["Käse", 7.0, None] and said.structured["cut"] is False


def test_model_is_told_which_tables_there_are(file: Path) -> None:
    made = tool(file)
    assert "shop: What we sell. (SQLite, parameters as ?) cheap(name); goods(id, name, price, pic" in made.description
    assert made.idempotent and made.schema["properties"]["database"]["enum"] == ["shop"]
    assert "secrets" not in tool(file, ["goods"]).description


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM goods",
        "INSERT INTO goods VALUES (3, 'x', 1, NULL)",
        "UPDATE goods SET price = 0 RETURNING *",
        "DROP TABLE goods",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "ATTACH DATABASE 'file:x?mode=rwc' AS x",
        "VACUUM INTO '/tmp/stolen.db'",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = WAL",
        "BEGIN EXCLUSIVE",
        "REINDEX",
        "ANALYZE",
        "EXPLAIN DELETE FROM goods",
        "SELECT 1; DROP TABLE goods",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT writefile('/tmp/x', 'a')",
        "SELECT readfile('/etc/passwd')",
        "WITH x AS (SELECT 1) DELETE FROM goods",
        "nonsense",
        "",
    ],
)
async def test_nothing_but_reading_is_done(file: Path, query: str) -> None:
    with pytest.raises(ToolError):
        await ask(tool(file), query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM secrets",
        "SELECT count(*) FROM secrets",
        "SELECT (SELECT key FROM secrets) FROM goods",
        "WITH goods AS (SELECT key FROM secrets) SELECT * FROM goods",
        "SELECT * FROM (SELECT key FROM secrets) AS goods",
        "SELECT name FROM goods UNION ALL SELECT key FROM secrets",
        "SELECT * FROM leak",
        "SELECT name FROM goods ORDER BY (SELECT key FROM secrets)",
        "SELECT name FROM goods WHERE EXISTS (SELECT 1 FROM secrets)",
        "SELECT sql FROM sqlite_master",
        "SELECT * FROM pragma_table_info('secrets')",
    ],
)
async def test_table_that_is_not_listed_is_not_read_by_any_way(file: Path, query: str) -> None:
    with pytest.raises(ToolError, match="only listed tables may be read"):
        await ask(tool(file, ["goods", "cheap", "leak"]), query)


async def test_listed_tables_and_views_over_them_are_read(file: Path) -> None:
    said = await ask(tool(file, ["goods", "cheap"]), "WITH c AS (SELECT * FROM cheap) SELECT max(name) FROM c")
    assert said.structured["rows"] == [["tea"]]


async def test_endless_query_ends(file: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(ToolError, match=r"took longer than 0\.3 s"):
        await ask(tool(file, timeout_s=0.3), endless)


@pytest.mark.parametrize("query", ["SELECT zeroblob(1000000000)", "SELECT hex(zeroblob(600000))"])
async def test_huge_value_is_refused(file: Path, query: str) -> None:
    with pytest.raises(ToolError, match="too big"):
        await ask(tool(file), query)


async def test_rows_and_bytes_are_bounded(file: Path) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i, 'xxxxxxxxx' FROM n"
    by_rows = await ask(tool(file, most_rows=10), many)
    assert len(by_rows.structured["rows"]) == 10 and by_rows.content.endswith("[cut here: there are more rows]")
    by_bytes = await ask(tool(file, most_bytes=100), many)
    assert 3 < len(by_bytes.structured["rows"]) < 8 and by_bytes.structured["cut"]


async def test_mistake_is_told_to_the_model(file: Path) -> None:
    with pytest.raises(ToolError, match="no such column: colour"):
        await ask(tool(file), "SELECT colour FROM goods")
    with pytest.raises(ToolError, match="there is no database till; there are: shop"):
        await tool(file).run(call(database="till", query="SELECT 1"))
    with pytest.raises(ToolError):
        await ask(tool(file), "SELECT ?", 2**80)


def test_settings_that_do_not_fit_say_why(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.db is not there"):
        tool(tmp_path / "nowhere.db")
    with pytest.raises(ValueError, match="the database shop: there is no table till"):
        tool(file, ["till"])
    with pytest.raises(ValidationError, match="absolute path"):
        tool(Path("shop.db"))
    with pytest.raises(ValidationError, match="either a file or in a variable"):
        SqlSettings.model_validate({"databases": [{"name": "a"}]})
    with pytest.raises(ValueError, match="the database a: NO_SUCH_URI is not in the environment"):
        sql(SqlSettings.model_validate({"databases": [{"name": "a", "variable": "NO_SUCH_URI"}]}))
    with pytest.raises(ValidationError, match="two databases are called a"):
        SqlSettings.model_validate({"databases": [{"name": "a", "file": "/a"}, {"name": "a", "file": "/b"}]})
