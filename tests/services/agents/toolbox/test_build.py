"""Settings as an operator writes them become a toolbox; a mistake in them is one sentence."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.agents.memory.passages import Passage
from services.agents.toolbox.build import build
from services.agents.toolbox.settings import ToolSettings
from tests.services.agents.asking import call

SETTINGS = """
functions:
  - function: tests.services.agents.toolbox.test_functions:price
    idempotent: true
openapi:
  - name: shop
    document: {folder}/shop.json
http_get:
  hosts: [docs.example.org, "*.wiki.example"]
sql:
  databases:
    - name: shop
      file: {folder}/shop.db
"""


class Empty:
    async def search(self, principal: str, query: str, count: int) -> list[Passage]:
        return []


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "shop.json").write_text(
        '{"openapi": "3.1.0", "servers": [{"url": "http://shop.example"}],'
        ' "paths": {"/goods": {"get": {"operationId": "goods"}}}}'
    )
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE goods (name)")
    return yaml.safe_load(SETTINGS.replace("{folder}", str(tmp_path)))


async def test_settings_become_a_toolbox(written: dict[str, Any], tmp_path: Path) -> None:
    toolbox = await build(ToolSettings.model_validate(written), state=tmp_path / "state", memory=Empty())
    owners = {tool.name: tool.owner for tool in toolbox}
    assert owners == {
        "price": "function:tests.services.agents.toolbox.test_functions",
        "retrieve": "builtin",
        "http_get": "builtin",
        "sql": "builtin",
        "goods": "openapi:shop",
    }
    assert [tool.name for tool in toolbox.chosen(["openapi:shop/*", "sql"])] == ["goods", "sql"]


async def test_without_settings_there_is_nothing(tmp_path: Path) -> None:
    assert list(await build(ToolSettings(), state=tmp_path)) == []


async def test_two_of_one_name_are_a_mistake(written: dict[str, Any], tmp_path: Path) -> None:
    written["functions"][0]["name"] = "goods"
    with pytest.raises(ValueError, match="both have a tool called goods; rename one of them"):
        await build(ToolSettings.model_validate(written), state=tmp_path)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap: apt-get install bubblewrap")
async def test_sandbox_is_tried_at_start_and_kept_from_the_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    toolbox = await build(ToolSettings.model_validate({"sandbox": {"memory_mib": 128}}), state=state)
    python = toolbox.get("python")
    assert python and (await python.run(call(code="print(6 * 7)"))).content == "42\n"
    with pytest.raises(ValueError, match="which no sandbox may see"):
        await build(ToolSettings.model_validate({"sandbox": {"folders": [str(tmp_path)]}}), state=state)


async def test_sandbox_without_bubblewrap_is_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="apt-get install bubblewrap"):
        await build(ToolSettings.model_validate({"sandbox": {}}), state=tmp_path)
