"""Reading a PostgreSQL database, and nothing else.

What may be read is what its role may: the operator grants it. A role that could reach out of the database is refused at
start. Each query is a cursor's in a read-only transaction: PostgreSQL takes nothing but one SELECT for that, and sends
no more rows than are asked for. One value may be as large as PostgreSQL lets it be.
Source: https://www.postgresql.org/docs/current/sql-declare.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.agents.toolbox.reading import Refused, Rows

if TYPE_CHECKING:
    import psycopg

CONNECT_S = 10
DANGEROUS = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files", "pg_signal_backend")
_MAY_REACH_OUT = f"""
SELECT current_user FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolreplication OR EXISTS (
    SELECT FROM pg_roles AS other
    WHERE other.rolname IN ({", ".join(f"'{name}'" for name in DANGEROUS)}) AND pg_has_role(other.oid, 'member')))
"""
_COLUMNS = """
SELECT CASE table_schema WHEN 'public' THEN '' ELSE table_schema || '.' END || table_name, column_name
FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema')
ORDER BY table_schema, table_name, ordinal_position
"""


@dataclass(frozen=True)
class PostgresReader:
    """One database."""

    uri: str = field(repr=False)
    """`postgresql://...`, its password in it."""
    dialect = "PostgreSQL, parameters as $1, $2"

    def read(self, query: str, parameters: list[Any], most_rows: int, timeout_s: float) -> Rows:
        import psycopg

        try:
            with self._reading(timeout_s) as connection, psycopg.RawServerCursor(connection, "question") as cursor:
                cursor.execute(query, parameters)  # type: ignore[arg-type]  # the model's own, as it is
                found = cursor.fetchmany(most_rows + 1)
                columns = tuple(each.name for each in cursor.description or ())
        except psycopg.errors.QueryCanceled:
            raise Refused(f"the query took longer than {timeout_s:g} s") from None
        except psycopg.Error as error:
            raise Refused(f"the query does not work: {_sentence(error)}") from None
        except (UnicodeError, OverflowError, ValueError) as error:
            raise Refused(f"the parameters do not work: {error}") from None
        return Rows(columns, tuple(found[:most_rows]), len(found) > most_rows)

    def described(self) -> dict[str, list[str]]:
        try:
            import psycopg
        except ImportError:
            raise ValueError(
                "PostgreSQL is reached by psycopg, which is not installed: pip install psycopg[binary]"
            ) from None
        try:
            with self._reading(CONNECT_S) as connection:
                if (role := connection.execute(_MAY_REACH_OUT).fetchone()) is not None:
                    raise ValueError(
                        f"the role {role[0]} may do more than read this database (it is a superuser, or a member of "
                        f"{', '.join(DANGEROUS)}); make one that may only SELECT"
                    )
                found: dict[str, list[str]] = {}
                for table, column in connection.execute(_COLUMNS):
                    found.setdefault(table, []).append(column)
                return found
        except psycopg.Error as error:
            raise ValueError(_sentence(error)) from None

    @contextmanager
    def _reading(self, timeout_s: float) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that writes nothing and is rolled back."""
        import psycopg

        milliseconds = max(1, int(timeout_s * 1000))
        options = (
            f"-c default_transaction_read_only=on -c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
            f"-c idle_in_transaction_session_timeout={milliseconds + 5000}"
        )
        connection = psycopg.connect(
            self.uri, connect_timeout=CONNECT_S, options=options, application_name="trivium agents"
        )
        try:
            connection.read_only = True
            yield connection
        finally:
            connection.close()


def _sentence(error: Exception) -> str:
    """The first line, without what an address may have of a password."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"://[^@\s]*@", "://", line)
