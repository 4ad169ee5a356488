"""`sql`: questions to databases that the operator names. They are read, never written."""

from __future__ import annotations

import asyncio
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import to_jsonable_python

from cluster.settings import Strict
from services.agents.toolbox.postgres_reader import PostgresReader
from services.agents.toolbox.reading import Reader, Refused, Rows
from services.agents.toolbox.sqlite_reader import SqliteReader
from services.agents.tools import Invocation, Result, Tool, ToolError

MOST_TOLD = 8000
"""Characters of a tool's description that say which tables there are."""


class DatabaseSettings(Strict):
    """One database: an SQLite file, or a PostgreSQL server."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    file: Path | None = None
    """Absolute, the same on every machine."""
    tables: tuple[str, ...] = ()
    """Which of the file's may be read; all if left out. Of a server's, its role says which."""
    variable: str | None = None
    """Environment variable with `postgresql://USER:PASSWORD@HOST/DATABASE`. The user may only SELECT, and is nobody
    else's: who may write or read files is refused."""
    description: str = ""

    @model_validator(mode="after")
    def _one(self) -> DatabaseSettings:
        if (self.file is None) == (self.variable is None):
            raise ValueError(f"the database {self.name} is either a file or in a variable; give one of them")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError(f"{self.file} depends on where one stands; give an absolute path")
        if self.variable is not None and self.tables:
            raise ValueError(f"which tables of {self.name} may be read is for its role to say: GRANT SELECT ON ...")
        return self

    def reader(self) -> Reader:
        """Raises `ValueError` where the variable is not set."""
        if self.file is not None:
            return SqliteReader(self.file, frozenset(self.tables))
        uri = os.environ.get(self.variable or "", "")
        if not uri.startswith(("postgresql://", "postgres://")):
            raise ValueError(f"{self.variable} is not in the environment, or does not begin with postgresql://")
        return PostgresReader(uri)


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
    """Raises `ValueError`, one sentence, for what is no database, or would let more be done than reading."""
    readers: dict[str, Reader] = {}
    told = []
    for each in settings.databases:
        try:
            readers[each.name] = each.reader()
            told.append(_told(each, readers[each.name]))
        except ValueError as error:
            raise ValueError(f"the database {each.name}: {error}") from None

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

    description = (
        "Ask a database with one SELECT statement. Nothing can be changed. At most "
        f"{settings.most_rows} rows come back.\n" + "\n".join(told)
    )
    return Tool("sql", description, _schema(list(readers)), run, "builtin", True, settings.timeout_s + 5)


def _schema(names: list[str]) -> dict[str, Any]:
    scalar = {"type": ["string", "number", "boolean", "null"]}
    parameters = {"type": "array", "items": scalar, "description": "Values for the query's parameters, in order."}
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


def _told(settings: DatabaseSettings, reader: Reader) -> str:
    listed = "; ".join(f"{table}({', '.join(columns)})" for table, columns in reader.described().items())
    about = f" {settings.description}" if settings.description else ""
    return f"{settings.name}:{about} ({reader.dialect}) {listed[:MOST_TOLD]}"


def _result(found: Rows, most_bytes: int) -> Result:
    lines, rows, size = [json.dumps(found.columns, ensure_ascii=False)], list[list[Any]](), 0
    for row in found.rows:
        values = [_plain(each) for each in row]
        line = json.dumps(values, ensure_ascii=False)
        if (size := size + len(line.encode(errors="replace"))) > most_bytes:
            break
        lines.append(line)
        rows.append(values)
    cut = found.cut or len(rows) < len(found.rows)
    content = "\n".join([*lines, "[cut here: there are more rows]"] if cut else lines)
    return Result(content, structured={"columns": list(found.columns), "rows": rows, "cut": cut})


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return f"[{len(value)} bytes]"
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
    # What PostgreSQL has beside JSON's: numeric keeps its digits, a date is written as ISO has it.
    return to_jsonable_python(value, fallback=str, inf_nan_mode="strings")
