"""The generator: deterministic, copied arguments, held-out domains that stay out."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from pipelines.seed import realise
from pipelines.seed.composed import ATTRIBUTES
from pipelines.seed.corpus import replay, scenes, traffic
from pipelines.seed.domains import EVERYDAY
from pipelines.seed.house import HOUSE, MARKS
from pipelines.seed.values import MAKERS

BENCHMARK_TOOLS = {
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
}
BENCHMARK_PARAMETERS = {
    "party_size_number",
    "party_size_description",
    "spatial_relation",
    "condition_temperature",
    "condition_description",
    "object_select",
    "object_part_of_series_type",
    "object_location_type",
    "geographic_poi",
    "entity_name",
    "playlist_owner",
    "music_item",
    "served_dish",
    "best_rating",
    "timeRange",
}


def calls(drawn):
    for scene in drawn:
        for messages in scene.conversations:
            for at, message in enumerate(messages):
                for call in message.get("tool_calls", ()):
                    yield scene, messages[at - 1], call["function"]


def test_same_seed_draws_the_same_scenes_from_any_index():
    first = list(islice(scenes(3), 20))
    assert first == list(islice(scenes(3), 20))
    assert first[12:] == list(islice(scenes(3, 12), 8))
    assert first != list(islice(scenes(4), 20))


def test_every_argument_is_copied_from_the_request_and_named_by_the_schema_in_its_order():
    for scene, asked, function in calls(islice(scenes(0), 300)):
        schema = {t["function"]["name"]: list(t["function"]["parameters"]["properties"]) for t in scene.tools}[
            function["name"]
        ]
        assert all(value in asked["content"] for value in function["arguments"].values())
        assert [p for p in schema if p in function["arguments"]] == list(function["arguments"])


def test_every_kind_of_value_that_a_domain_names_can_be_made():
    kinds = {p.kind for t in (*EVERYDAY, *HOUSE) for p in t.params} | {kind for _, kind, _ in ATTRIBUTES}
    assert realise and kinds <= set(MAKERS)


def test_held_out_domains_never_occur_in_pre_training():
    text = json.dumps(
        [[s.tools, s.conversations] for s in islice(scenes(0, early=300), 600)], ensure_ascii=False
    ).lower()
    words = set(re.findall(r"\w+", text.replace("_", " ")))
    assert not words & MARKS
    assert not any(t.names[0].lower() in words for t in HOUSE)


def test_no_tool_of_the_real_benchmark_is_in_the_corpus():
    names, parameters = set(), set()
    for scene in islice(scenes(0), 1000):
        for t in scene.tools:
            names.add(t["function"]["name"])
            parameters |= set(t["function"]["parameters"]["properties"])
    assert not names & BENCHMARK_TOOLS
    assert not parameters & BENCHMARK_PARAMETERS


def test_replay_gives_training_rows_that_end_with_the_assistant():
    rows = replay(30, seed=5)
    assert len(rows) == 30 and rows == replay(30, seed=5)
    assert all(row["messages"][-1]["role"] == "assistant" and row["tools"] for row in rows)


def test_traffic_is_copied_unique_and_spread_over_all_held_out_tools():
    rows = traffic(400, seed=1)
    assert len({row["text"] for row in rows}) == 400
    assert {row["tool"] for row in rows} == {t.names[0] for t in HOUSE}
    assert all(value in row["text"] for row in rows for value in row["arguments"].values())


@pytest.mark.parametrize("command", [["--out", "t", "--train", "20", "--validate", "5"]])
def test_traffic_command_writes_the_form_that_the_demo_reads(command, tmp_path):
    from click.testing import CliRunner

    from pipelines.seed.cli import seed

    command[1] = str(tmp_path / "t")
    assert CliRunner().invoke(seed, ["traffic", *command]).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "t" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and set(rows[0]) == {"text", "tool", "arguments"}
    assert len((tmp_path / "t" / "validate.jsonl").read_text().splitlines()) == 5
