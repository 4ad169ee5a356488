"""Two bases behind one `base_url`, two replicas of one of them, and a model of one's own: a tiny Qwen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.client import Client
from cluster.models import seed_folder
from cluster.registry import Registry
from tests.conftest import Cluster
from tests.e2e import tiny_qwen
from tests.e2e.using import Load, answers, client, eventually, example, one_answer, recipe, runs, tool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

SERVE = Path(__file__).parents[2] / "services" / "serve.yaml"
WEATHER = tool("weather", "city")


def config(qwen: Path) -> dict[str, Any]:
    """The shipped Serve config with a second application beside the first, and two replicas of the first."""
    shipped = yaml.safe_load(SERVE.read_text())
    first = next(application for application in shipped["applications"] if application.get("route_prefix") == "/")
    first["args"]["replicas"] = 2
    route = "/bases/tiny-qwen"
    arguments = {"model": str(qwen), "name": "tiny-qwen", "alias": "scholar", "route": route, "tool_parser": "hermes"}
    second = {**first, "name": "tiny-qwen", "route_prefix": route, "args": {**arguments, "max_loras": 2}}
    return {**shipped, "applications": [*shipped["applications"], second]}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("two")
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config(tiny_qwen.build(folder / "tiny-qwen"))))
    own = Cluster.on_free_ports(folder / "state")
    own.state.mkdir()
    try:
        own.trivium("up", "--config", str(file))
        with Client(own.settings, own.api_key) as admin:
            admin.create("scholar", "tiny-qwen")
        yield own
    finally:
        own.trivium("down", check=False)


def adapter(folder: Path) -> Path:
    """A LoRA adapter of the seed model with random weights: a version that nobody had to train."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(seed_folder())
    tuned = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(folder)
    return folder


def test_both_bases_answer_behind_one_base_url(two: Cluster) -> None:
    with client(two) as api:
        listed = {model.id for model in api.models.list()}
        assert {"seed", "tiny-qwen", "assistant", "scholar"} <= listed
        for model, version in (("assistant", "assistant@0"), ("scholar", "scholar@0"), ("seed", "seed@0")):
            for stream in (False, True):
                heard = one_answer(api, model, "hello", stream, begun=0)
                assert heard.version == version and heard.text is not None, heard


def test_qwen_calls_tools_through_its_own_template_and_parser(two: Cluster) -> None:
    with client(two) as api:
        answer = api.chat.completions.create(
            model="scholar",
            messages=[{"role": "user", "content": "What is the weather in Rome?"}],
            tools=[WEATHER],
            tool_choice="required",
            max_tokens=64,
            temperature=0,
        )
    assert {call.function.name for call in answer.choices[0].message.tool_calls or []} <= {"weather"}


def test_promotion_and_rollback_reach_both_replicas_within_3_s_and_no_request_fails(
    two: Cluster, tmp_path: Path
) -> None:
    made = Registry(two.settings).create("assistant", "seed", "adapter", 8, "assistant@0", None, adapter(tmp_path))
    with Load(two) as load:
        eventually(lambda: len(load.complete) >= 10, 60, "traffic")
        two.trivium("promote", made.id)
        assert versions(load, since=time.monotonic()) == {made.id}, "the command returns when every replica follows"
        begun = time.monotonic()
        with Client(two.settings, two.api_key) as admin:
            admin.rollback("assistant", "a test takes it back")
        assert time.monotonic() - begun < 3
        assert versions(load, since=time.monotonic()) == {"assistant@0"}
    assert not load.failures
    with Client(two.settings, two.api_key) as admin:
        replicas = admin.rollout()["replicas"]["assistant"]
    assert len(replicas) == 2


def versions(load: Load, since: float) -> set[str | None]:
    """Who answered what was asked from a moment on."""
    eventually(lambda: len(load.after(since)) >= 20, 60, "traffic afterwards")
    return {heard.version for heard in load.after(since)}


def test_a_whole_cycle_turns_on_qwen(two: Cluster, tmp_path: Path) -> None:
    """Every city has the same weather here: even random weights can be tuned to say so."""
    firsts, lasts = ("Ab", "Bri", "Cor", "Dun", "Ely"), ("ton", "ham", "by", "ford", "wick")
    phrases = ("weather in", "is it raining in", "how warm is", "sky over")
    asked = [f"{phrase} {first}{last}" for first in firsts for last in lasts for phrase in phrases]
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    lines = [example(text, call, [WEATHER], f"q-{at // 4}") for at, text in enumerate(asked)]
    (tmp_path / "qwen.jsonl").write_text("\n".join(lines))
    two.trivium("log", "import", "--alias", "scholar", str(tmp_path / "qwen.jsonl"))
    file = recipe(
        tmp_path / "recipe.yaml",
        alias="scholar",
        curation={"near_duplicate": 1, "min_rows": 16},
        training={"epochs": 60, "learning_rate": 0.01, "rank": 16},
        evaluation={"max_tokens": 64},
        # Random weights are not sure of every brace yet: once, three of twelve answers were no JSON.
        gate={"min_rows": 8, "well_formed": 0.5},
    )
    two.trivium("cycle", "--recipe", str(file))
    run = runs(two)[-1]
    assert run["outcome"] == "promoted", json.dumps(run["verdict"])
    assert answers(two, "scholar") == "scholar@1" and answers(two) == "assistant@0"
