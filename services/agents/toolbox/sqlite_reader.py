"""Reading an SQLite file, and nothing else: four walls, each of which would do.

The file is opened read-only; an authorizer lets through SELECT, columns of the listed tables and functions; a statement
is one statement; time, rows and the size of a value are bounded. Source: https://sqlite.org/security.html
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.agents.toolbox.reading import Refused, Rows

LOOK_EVERY = 1000
"""Steps of SQLite's machine between two looks at the clock: well under a millisecond."""
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 2**20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 2**16,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FUNCTIONS_REFUSED = {"load_extension", "fts3_tokenizer"}


@dataclass(frozen=True)
class SqliteReader:
    """One file."""

    file: Path
    tables: frozenset[str] = frozenset()
    """Which may be read; all if empty. A view needs its tables."""
    dialect = "SQLite, parameters as ?"

    def read(self, query: str, parameters: list[Any], most_rows: int, timeout_s: float) -> Rows:
        deadline = time.monotonic() + timeout_s
        try:
            with closing(self._open(timeout_s)) as connection:
                connection.set_authorizer(self._authorizer())
                connection.set_progress_handler(lambda: time.monotonic() > deadline, LOOK_EVERY)
                cursor = connection.execute(query, parameters)
                if cursor.description is None:
                    raise Refused("the query returns no rows; only reading is allowed")
                found = cursor.fetchmany(most_rows + 1)
                columns = tuple(each[0] for each in cursor.description)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            raise Refused(_said(error, time.monotonic() > deadline, timeout_s)) from None
        return Rows(columns, tuple(found[:most_rows]), len(found) > most_rows)

    def described(self) -> dict[str, list[str]]:
        if not self.file.is_file():
            raise ValueError(f"{self.file} is not there")
        try:
            with closing(self._open(5.0)) as connection:
                names = connection.execute(
                    "SELECT name FROM sqlite_master "
                    "WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name"
                )
                found = {
                    name: [column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
                    for (name,) in names.fetchall()
                    if not self.tables or name in self.tables
                }
        except sqlite3.Error as error:
            raise ValueError(f"{self.file} cannot be read: {error}") from None
        if missing := sorted(self.tables - found.keys()):
            raise ValueError(f"there is no table {', '.join(missing)}")
        return found

    def _open(self, timeout_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.file))}?mode=ro", uri=True, timeout=timeout_s, isolation_level=None
        )
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        return connection

    def _authorizer(self) -> Callable[..., int]:
        def may(action: int, first: str | None, second: str | None, database: str | None, context: str | None) -> int:
            # `context` names the view that reads, but the query's author names subqueries as he likes.
            if action == sqlite3.SQLITE_READ:
                return sqlite3.SQLITE_OK if not self.tables or first in self.tables else sqlite3.SQLITE_DENY
            if action not in _ACTIONS or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS_REFUSED):
                return sqlite3.SQLITE_DENY
            return sqlite3.SQLITE_OK

        return may


def _said(error: Exception, late: bool, timeout_s: float) -> str:
    text = str(error)
    if late or text == "interrupted":
        return f"the query took longer than {timeout_s:g} s"
    if text == "not authorized" or "prohibited" in text:
        return f"this may not be done here, only listed tables may be read ({text})"
    return f"the query does not work: {text}"
