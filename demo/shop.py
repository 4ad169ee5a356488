"""A small shop: its SQLite database, and an MCP server over it, `python -m demo.shop FILE`.

What the agent of `trivium demo --agents` works with. All arguments are texts, as the seed model writes them; the shop
says in a few words what came of a call.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

BOOKS = ("orders", "quotes", "rejections")
SCHEMA = """
CREATE TABLE items (name TEXT PRIMARY KEY, price INTEGER NOT NULL, stock INTEGER NOT NULL CHECK (stock >= 0));
CREATE TABLE orders (customer TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL);
CREATE TABLE quotes (customer TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL);
CREATE TABLE rejections (customer TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL);
"""
PATIENCE_S = 30.0
"""How long a call waits for another that writes."""


@dataclass(frozen=True)
class Item:
    name: str
    price: int
    """In euros."""
    stock: int


class Shop:
    """The database. Raises `ValueError` in a few words for what it will not do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open_with(self, items: Iterable[Item]) -> None:
        """A new shop with these items, in place of the one that was there."""
        self._path.unlink(missing_ok=True)
        with self._connection() as database:
            database.executescript(SCHEMA)
            database.executemany("INSERT INTO items VALUES (?, ?, ?)", [(i.name, i.price, i.stock) for i in items])

    def find(self, quantity: str, item: str) -> str:
        stock = self._item(item).stock
        return "in stock" if stock >= _count(quantity) else "sold out" if stock == 0 else f"only {stock} left"

    def price(self, quantity: str, item: str) -> str:
        return f"{self._item(item).price * _count(quantity)} euros"

    def order(self, quantity: str, item: str, customer: str) -> str:
        count = _count(quantity)
        self._item(item)
        with self._connection() as database:
            left = "UPDATE items SET stock = stock - ? WHERE name = ? AND stock >= ?"
            if not database.execute(left, (count, item, count)).rowcount:
                raise ValueError("not enough of it")
            _write(database, "orders", customer, item, count)
        return "ordered"

    def quote(self, quantity: str, item: str, customer: str) -> str:
        return self._keep("quotes", quantity, item, customer, f"told {customer}: {self.price(quantity, item)}")

    def reject(self, quantity: str, item: str, customer: str) -> str:
        return self._keep("rejections", quantity, item, customer, "rejected")

    def of(self, customer: str) -> set[tuple[str, ...]]:
        """All that it did for a customer: `(BOOK, ITEM, QUANTITY)`, and a fourth word for what was done before."""
        with self._connection() as database:
            return {
                (book, item, str(quantity), *(["again"] if place else []))
                for book in BOOKS
                for place, (item, quantity) in enumerate(
                    database.execute(f"SELECT item, quantity FROM {book} WHERE customer = ?", (customer,))
                )
            }

    def _keep(self, book: str, quantity: str, item: str, customer: str, said: str) -> str:
        count = _count(quantity)
        self._item(item)
        with self._connection() as database:
            _write(database, book, customer, item, count)
        return said

    def _item(self, name: str) -> Item:
        with self._connection() as database:
            row = database.execute("SELECT name, price, stock FROM items WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise ValueError("unknown item")
        return Item(*row)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=PATIENCE_S)
        try:
            with database:
                yield database
        finally:
            database.close()


def _write(database: sqlite3.Connection, book: str, customer: str, item: str, count: int) -> None:
    database.execute(f"INSERT INTO {book} VALUES (?, ?, ?)", (customer, item, count))


def _count(quantity: str) -> int:
    if not quantity.isdecimal() or not 0 < int(quantity) < 1000:
        raise ValueError("not a number of pieces")
    return int(quantity)


def server(shop: Shop) -> MCPServer:
    """The shop's tools. What only looks says so; nothing else is done twice."""
    tools = MCPServer("shop", log_level="ERROR")
    looks = ToolAnnotations(read_only_hint=True)

    @tools.tool(annotations=looks)
    def find_item(quantity: str, item: str) -> str:
        """Whether there are so many of an item."""
        return _told(shop.find, quantity, item)

    @tools.tool(annotations=looks)
    def price_item(quantity: str, item: str) -> str:
        """What so many of an item cost together."""
        return _told(shop.price, quantity, item)

    @tools.tool()
    def order_item(quantity: str, item: str, customer: str) -> str:
        """Order so many of an item for a customer."""
        return _told(shop.order, quantity, item, customer)

    @tools.tool()
    def quote_item(quantity: str, item: str, customer: str) -> str:
        """Tell a customer what so many of an item cost."""
        return _told(shop.quote, quantity, item, customer)

    @tools.tool()
    def reject_item(quantity: str, item: str, customer: str) -> str:
        """Tell a customer that there will be no order of so many of an item."""
        return _told(shop.reject, quantity, item, customer)

    return tools


def _told(act: Callable[..., str], *arguments: str) -> str:
    try:
        return act(*arguments)
    except ValueError as refusal:
        raise ToolError(str(refusal)) from None


if __name__ == "__main__":
    server(Shop(Path(sys.argv[1]))).run()
