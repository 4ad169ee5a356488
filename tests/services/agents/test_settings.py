"""The settings of agents, and the place where their journals are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cluster.log import Log
from cluster.settings import Settings
from services.agents.settings import AgentsSettings

SERVE = Path(__file__).parents[3] / "services" / "serve.yaml"


def test_what_is_shipped_is_one_agent_without_tools() -> None:
    (args,) = [each["args"] for each in yaml.safe_load(SERVE.read_text())["applications"] if each["name"] == "agents"]
    settings = AgentsSettings.model_validate(args)
    assert {name: agent.tools for name, agent in settings.agents.items()} == {"assistant": ()}


@pytest.mark.parametrize("name", ["runs", "a/b", "", "x" * 59, "ä"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is no name for an agent"):
        AgentsSettings.model_validate({"agents": {name: {"description": "x"}}})


def test_journals_are_where_all_nodes_can_read_them(tmp_path: Path) -> None:
    here = Settings(state=tmp_path / "state", log=tmp_path / "own disk")
    assert Log.shared(here).own == Log.shared(here).folder == Log.here(here).folder != Log.here(here).own


async def test_the_shipped_application_starts_with_nothing_permitted() -> None:
    from services.agents.app import app, build

    settings = AgentsSettings.model_validate({"agents": {"assistant": {"description": "x"}}})
    deployment = app(settings)._bound_deployment  # type: ignore[attr-defined]
    assert deployment.name == "agents" and deployment.ray_actor_options["num_cpus"] == 0
    parts = await build(settings)
    assert list(parts.tools) == [] and parts.permits.decide(None).effect == "deny"  # type: ignore[arg-type]
