"""What the agents' demo asks of a cluster: it must be what the cluster takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from demo.agency import AGENT
from demo.cli import demo
from demo.shift import ALIAS, settle
from pipelines.recipe import Recipe
from pipelines.wheel import WheelSettings
from services.agents.permits import Ask
from services.agents.policy import Policy
from services.agents.settings import AgentsSettings
from services.agents.tools import Caller, Invocation, Tool


def test_its_config_is_the_shipped_one_with_a_shop_and_a_clerk(tmp_path: Path) -> None:
    config = yaml.safe_load(settle(tmp_path, jobs=500).read_text())
    args = {application["name"]: application["args"] for application in config["applications"]}
    assert {"assistant", "rollout", "wheel", "agents", "mcp"} <= args.keys() and args["assistant"]["alias"] == ALIAS
    wheel = WheelSettings.model_validate(args["wheel"])
    recipe = Recipe.load(Path(wheel.recipe))
    assert (wheel.min_feedback, recipe.alias, recipe.curation.runs.learn) == (500, ALIAS, "trajectories")
    agents = AgentsSettings.model_validate(args["agents"])
    assert list(agents.agents) == [AGENT] and agents.agents[AGENT].model == ALIAS
    assert list(agents.tools.mcp.servers) == ["shop"]


def test_its_policy_lets_the_clerk_use_the_shop_and_nobody_else(tmp_path: Path) -> None:
    config = yaml.safe_load(settle(tmp_path, jobs=500).read_text())
    args = next(each["args"] for each in config["applications"] if each["name"] == "agents")
    policy = Policy(AgentsSettings.model_validate(args).policy)

    async def never(invocation: Invocation) -> None:
        raise AssertionError

    def said(agent: str, owner: str) -> str:
        tool = Tool("order_item", "x", {"type": "object"}, never, owner)  # type: ignore[arg-type]
        caller = Caller("owner", ("agents",), agent, "clerk@0", "run-1", "run-1")
        return policy.decide(Ask(tool, Invocation("op", {}, caller), 0, 0)).effect

    assert said(AGENT, "mcp:shop") == "permit"
    assert said("assistant", "mcp:shop") == said(AGENT, "mcp:other") == "deny"


@pytest.mark.parametrize("other", [["--traffic", "t"], ["--plant-bad-candidate"]])
def test_it_brings_its_own_jobs(other: list[str]) -> None:
    result = CliRunner().invoke(demo, ["--agents", *other])
    assert result.exit_code == 2 and "--agents brings its own jobs" in result.output
