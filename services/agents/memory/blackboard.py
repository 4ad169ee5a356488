"""A blackboard for the agents of one run: what one of them writes, the others read.

A board belongs to a tree of runs, the one that a user started and those that it spawned; no key and no name leads to
another tree's. Boards live in one small actor (`boards.py`), and values above a size in Ray's object store, owned by
that actor. So a replica that dies takes nothing with it. When the actor's process dies or its node is lost, all boards
are empty, and a large value is gone with the node that held it: a key is then not there, and an agent writes it anew.
What must last belongs in the memory of passages.

This file is plain Python: the board itself, which `put` of an object store is handed to.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.agents.memory.settings import BoardSettings

APPLIED = 1_024
"""Operations of a board that are remembered: one that is repeated after a crash changes nothing."""
Tree = tuple[str, str]
"""Principal, and the run that all others of the tree come from."""


@dataclass(frozen=True)
class Note:
    """One value on a board."""

    key: str
    writer: str
    """Run that wrote it."""
    size: int
    """Bytes, as UTF-8."""
    inline: str | None = None
    """The value, if it is small."""
    reference: Any = None
    """Where it lies in the object store, if not."""


class Boards(Protocol):
    """All boards, from any replica. Raises `ValueError` with one sentence for what does not fit."""

    async def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> None: ...

    async def get(self, tree: Tree, key: str) -> str | None: ...

    async def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        """Key, bytes and writer of each value, in the order of the keys."""
        ...

    async def drop(self, tree: Tree) -> None:
        """The run is over."""
        ...


@dataclass
class _Board:
    notes: dict[str, Note] = field(default_factory=dict)
    applied: OrderedDict[str, None] = field(default_factory=OrderedDict)
    used: float = 0.0

    @property
    def size(self) -> int:
        return sum(note.size for note in self.notes.values())


class Blackboards:
    """The boards themselves, bounded in number, keys and bytes. `store` puts a large value where it can be had from."""

    def __init__(
        self, settings: BoardSettings, store: Callable[[str], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        self._boards: OrderedDict[Tree, _Board] = OrderedDict()

    def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> None:
        """Write a value in place of what the key held; the same operation again changes nothing."""
        settings, board = self._settings, self._board(tree)
        if operation in board.applied:
            return
        if not key or len(key) > settings.key_characters:
            raise ValueError(f"a key has 1 to {settings.key_characters} characters")
        size = len(value.encode(errors="replace"))
        if size > settings.value_bytes:
            raise ValueError(f"a value has at most {settings.value_bytes} bytes, and this one has {size}; share less")
        before = board.notes.get(key)
        if before is None and len(board.notes) >= settings.keys:
            raise ValueError(f"the blackboard is full: it holds {settings.keys} keys; write to one that is there")
        if board.size - (before.size if before else 0) + size > settings.board_bytes:
            raise ValueError(f"the blackboard is full: it holds {settings.board_bytes} bytes; write less")
        small = size <= settings.inline_bytes
        note = Note(key, writer, size, value if small else None, None if small else self._store(value))
        board.notes[key] = note
        board.applied[operation] = None
        while len(board.applied) > APPLIED:
            board.applied.popitem(last=False)

    def get(self, tree: Tree, key: str) -> Note | None:
        return self._seen(tree).notes.get(key)

    def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        return sorted((note.key, note.size, note.writer) for note in self._seen(tree).notes.values())

    def drop(self, tree: Tree) -> None:
        self._boards.pop(tree, None)

    def expire(self) -> int:
        """Let go of boards that nobody looked at for long; how many are left."""
        since = self._clock() - self._settings.keep_s
        while self._boards and next(iter(self._boards.values())).used < since:
            self._boards.popitem(last=False)
        return len(self._boards)

    def _seen(self, tree: Tree) -> _Board:
        """A board to look at: one that nobody wrote to is not kept."""
        self.expire()
        return self._board(tree) if tree in self._boards else _Board()

    def _board(self, tree: Tree) -> _Board:
        self.expire()
        board = self._boards.setdefault(tree, _Board())
        board.used = self._clock()
        self._boards.move_to_end(tree)
        if len(self._boards) > self._settings.boards:
            self._boards.popitem(last=False)
        return board
