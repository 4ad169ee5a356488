"""A small MCP server on standard input and output, whose folder (`SHOP_FOLDER`) remembers what it did.

What it says of its tools is in `words.json` there, if that exists: an operator's server that changes its mind.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

FOLDER = Path(os.environ["SHOP_FOLDER"])
WORDS = json.loads((FOLDER / "words.json").read_text()) if (FOLDER / "words.json").exists() else {}
STOCK = {"tea": 4, "salt": 0}

shop = MCPServer("shop", log_level="ERROR")


def remember(what: str) -> None:
    with (FOLDER / "ledger").open("a") as ledger:
        ledger.write(f"{what}\n")


def die_if_told() -> None:
    """Once: the file that tells goes first."""
    if (FOLDER / "die").exists():
        (FOLDER / "die").unlink()
        os._exit(1)


@shop.tool(description=WORDS.get("look_up", "How many there are."), annotations=ToolAnnotations(read_only_hint=True))
def look_up(item: str) -> int:
    remember(f"look_up {item}")
    die_if_told()
    if item not in STOCK:
        raise ToolError(f"there is no {item}; there are: {', '.join(STOCK)}")
    return STOCK[item]


@shop.tool(description=WORDS.get("order", "Order one."))
def order(item: str) -> str:
    remember(f"order {item}")
    die_if_told()
    return f"ordered {item}"


@shop.tool()
def wait(seconds: float) -> str:
    """Take your time."""
    time.sleep(seconds)
    return "done"


@shop.tool()
def about() -> dict[str, list[str]]:
    """What the shop knows of its surroundings."""
    return {"variables": sorted(os.environ), "process": [str(os.getpid())]}


if "extra" in WORDS:
    shop.add_tool(lambda: "extra", name="extra", description=WORDS["extra"])

if __name__ == "__main__":
    shop.run()
