"""`sql`: questions to databases that the operator names. They are read, never written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from cluster.settings import Strict
from services.agents.toolbox.sqlite_reader import Refused, Rows, SqliteReader
from services.agents.tools import Invocation, Result, Tool, ToolError

MOST_TOLD = 8000
"""Characters of a tool's description that say which tables there are."""


class DatabaseSettings(Strict):
    """One SQLite file."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    file: Path
    """Absolute, the same on every machine. Nobody who may call `sql` is kept from any of its tables ..."""
    tables: tuple[str, ...] = ()
    """... unless these are all that may be read."""
    description: str = ""

    @field_validator("file")
    @classmethod
    def _absolute(cls, file: Path) -> Path:
        if not file.is_absolute():
            raise ValueError(f"{file} depends on where one stands; give an absolute path")
        return file


class SqlSettings(Strict):
    """The tool `sql`."""

    databases: Annotated[tuple[DatabaseSettings, ...], Field(min_length=1)]
    most_rows: int = Field(200, ge=1)
    most_bytes: int = Field(64 * 1024, ge=1)
    """Of one answer."""
    timeout_s: float = Field(10.0, gt=0)

    @field_validator("databases")
    @classmethod
    def _once(cls, databases: tuple[DatabaseSettings, ...]) -> tuple[DatabaseSettings, ...]:
        names = [each.name for each in databases]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two databases are called {', '.join(sorted(twice))}; rename one")
        return databases


def sql(settings: SqlSettings) -> Tool:
    """Raises `ValueError`, one sentence, for a file that is no database."""
    readers = {each.name: SqliteReader(each.file, frozenset(each.tables)) for each in settings.databases}

    async def run(invocation: Invocation) -> Result:
        given = invocation.arguments
        reader = readers.get(given["database"])
        if reader is None:
            raise ToolError(f"there is no database {given['database']}; there are: {', '.join(readers)}")
        try:
            rows = await asyncio.to_thread(
                reader.read, given["query"], given.get("parameters", []), settings.most_rows, settings.timeout_s
            )
        except Refused as error:
            raise ToolError(str(error)) from None
        return _result(rows, settings.most_bytes)

    told = "\n".join(_told(each, readers[each.name]) for each in settings.databases)
    description = (
        "Ask a database with one SELECT statement of SQLite's. Nothing can be changed. At most "
        f"{settings.most_rows} rows come back.\n{told}"
    )
    return Tool("sql", description, _schema(list(readers)), run, "builtin", True, settings.timeout_s + 5)


def _schema(names: list[str]) -> dict[str, Any]:
    scalar = {"type": ["string", "number", "boolean", "null"]}
    parameters = {"type": "array", "items": scalar, "description": "Values for each ? of the query, in order."}
    return {
        "type": "object",
        "properties": {
            "database": {"type": "string", "enum": names},
            "query": {"type": "string", "minLength": 1, "maxLength": 2**16},
            "parameters": parameters,
        },
        "required": ["database", "query"],
        "additionalProperties": False,
    }


def _told(settings: DatabaseSettings, reader: SqliteReader) -> str:
    try:
        tables = reader.described()
    except (OSError, sqlite3.Error) as error:
        raise ValueError(f"the database {settings.name} cannot be read: {error}") from None
    if missing := sorted(reader.tables - tables.keys()):
        raise ValueError(f"the database {settings.name} has no table {', '.join(missing)}")
    listed = "; ".join(f"{table}({', '.join(columns)})" for table, columns in tables.items())
    return f"{settings.name}: {settings.description} {listed[:MOST_TOLD]}".replace("  ", " ")


def _result(found: Rows, most_bytes: int) -> Result:
    lines, rows, size = [json.dumps(found.columns, ensure_ascii=False)], list[list[Any]](), 0
    for row in found.rows:
        values = [f"[{len(each)} bytes]" if isinstance(each, bytes) else each for each in row]
        line = json.dumps(values, ensure_ascii=False)
        if (size := size + len(line.encode(errors="replace"))) > most_bytes:
            break
        lines.append(line)
        rows.append(values)
    cut = found.cut or len(rows) < len(found.rows)
    content = "\n".join([*lines, "[cut here: there are more rows]"] if cut else lines)
    return Result(content, structured={"columns": list(found.columns), "rows": rows, "cut": cut})
