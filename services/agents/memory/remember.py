"""What goes into the memory that lasts: the tool `remember`, and files from the command line."""

from __future__ import annotations

from pathlib import Path

from cluster.settings import Settings
from services.agents.memory.settings import MemorySettings
from services.agents.memory.vectors import Memories, open_store
from services.agents.tools import Invocation, Result, Tool, ToolError

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "What it is about; the same title again replaces it."},
        "text": {"type": "string", "description": "What to remember; empty: forget it."},
    },
    "required": ["title", "text"],
    "additionalProperties": False,
}


def memories(settings: MemorySettings, cluster: Settings, key: str | None = None) -> Memories:
    """The memory of a cluster. `key`: the cluster's own, for a model that it serves.

    Raises `ValueError` for a store that cannot be opened.
    """
    embed = None
    if settings.embeddings:
        from services.agents.memory.embeddings import embedder

        embed = embedder(settings.embeddings, key)
    return Memories(open_store(settings, cluster.state), settings, embed)


def remember(memory: Memories) -> Tool:
    """A note is its principal's: all agents that work for the same key find it, and nobody else's do."""

    async def run(call: Invocation) -> Result:
        title, text = call.arguments["title"], call.arguments["text"]
        source = f"{call.caller.agent}: {title}"
        try:
            if not text.strip():
                await memory.forget(call.caller.principal, source)
                return Result(f"forgotten: {title}")
            await memory.remember(call.caller.principal, source, text)
        except ValueError as error:
            raise ToolError(str(error)) from None
        return Result(f"remembered: {title}")

    return Tool(
        name="remember",
        description="Remember a text for later tasks, under a title. `retrieve` finds it again.",
        schema=SCHEMA,
        run=run,
        owner="builtin",
        idempotent=True,
    )


async def ingest(memory: Memories, principal: str, files: list[Path]) -> list[tuple[str, int]]:
    """Store files as documents, each under its name as it was given; how many passages each became.

    Raises `ValueError` for a file that is no text in UTF-8, before anything is stored.
    """
    texts = []
    for file in files:
        try:
            texts.append((str(file), file.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
            raise ValueError(f"{file} cannot be read ({reason}); give text files, such as Markdown") from None
    return [(source, await memory.remember(principal, source, text)) for source, text in texts]
