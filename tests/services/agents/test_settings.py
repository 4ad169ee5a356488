"""The settings of agents, and the place where their journals are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cluster.log import Log
from cluster.settings import Settings
from services.agents.permits import Ask
from services.agents.settings import AgentsSettings
from services.agents.tools import Caller, Invocation, Tool

SERVE = Path(__file__).parents[3] / "services" / "serve.yaml"


def shipped() -> AgentsSettings:
    (args,) = [each["args"] for each in yaml.safe_load(SERVE.read_text())["applications"] if each["name"] == "agents"]
    return AgentsSettings.model_validate(args)


@pytest.mark.parametrize("name", ["runs", "a/b", "", "x" * 59, "ä"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is no name for an agent"):
        AgentsSettings.model_validate({"agents": {name: {"description": "x"}}})


def test_journals_are_where_all_nodes_can_read_them(tmp_path: Path) -> None:
    here = Settings(state=tmp_path / "state", log=tmp_path / "own disk")
    assert Log.shared(here).own == Log.shared(here).folder == Log.here(here).folder != Log.here(here).own


async def test_what_is_shipped_may_look_things_up_and_nothing_else(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.agents.app import app, build

    async def root(caller: Caller) -> str:
        return caller.run

    monkeypatch.setenv("TRIVIUM_STATE", str(state))
    settings = shipped()
    deployment = app(settings)._bound_deployment  # type: ignore[attr-defined]
    assert deployment.name == "agents" and deployment.ray_actor_options["num_cpus"] == 0
    parts = await build(settings, root)
    assert {tool.name for tool in parts.tools} == {"retrieve", "remember", "share_memory"}
    who = Caller("app", ("agents",), "assistant", "assistant@1", "run-1", "run-1")

    def said(tool: Tool) -> str:
        return parts.permits.decide(Ask(tool, Invocation("run-1.1.0", {"query": "x"}, who), 0, 0)).effect

    offered = parts.tools.chosen(settings.agents["assistant"].tools)
    assert {tool.name: said(tool) for tool in offered} == {"retrieve": "permit"}
    assert [said(tool) for tool in parts.tools if tool.name == "remember"] == ["deny"]
