"""The generator: deterministic, copied arguments, held-out domains that stay out."""

from __future__ import annotations

import json
import re
from itertools import islice, pairwise

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
    """Each call with its scene, and all that the model had read before it."""
    for scene in drawn:
        for messages in scene.conversations:
            for at, message in enumerate(messages):
                for call in message.get("tool_calls", ()):
                    read = [each["content"] for each in messages[:at] if each["role"] in ("user", "tool")]
                    yield scene, read, call["function"]


def test_same_seed_draws_the_same_scenes_from_any_index():
    first = list(islice(scenes(3), 20))
    assert first == list(islice(scenes(3), 20))
    assert first[12:] == list(islice(scenes(3, 12), 8))
    assert first != list(islice(scenes(4), 20))


@pytest.mark.parametrize(("late", "read"), [(None, slice(-1, None)), (0, slice(None))])
def test_every_argument_is_copied_from_what_was_said_and_named_by_the_schema_in_its_order(late, read):
    for scene, said, function in calls(islice(scenes(0, late=late), 300)):
        schema = {t["function"]["name"]: list(t["function"]["parameters"]["properties"]) for t in scene.tools}[
            function["name"]
        ]
        assert all(any(value in text for text in said[read]) for value in function["arguments"].values())
        assert [p for p in schema if p in function["arguments"]] == list(function["arguments"])


def jobs(count):
    return [(s, c) for s in islice(scenes(0, late=0), 1, 2 * count, 2) for c in s.conversations]


def test_from_a_scene_on_every_other_one_is_of_jobs():
    plain, late = list(islice(scenes(0), 12)), list(islice(scenes(0, late=6), 12))
    assert plain[:6] == late[:6] and plain[6::2] == late[6::2]
    assert all(a != b for a, b in zip(plain[7::2], late[7::2], strict=True))
    assert late[9:] == list(islice(scenes(0, 9, late=6), 3))


def test_jobs_go_on_after_a_result_and_end_where_a_step_fails():
    after = {True: 0, False: 0}
    for _, messages in jobs(100):
        for result, then in pairwise(messages):
            if result["role"] == "tool":
                after[bool(then.get("tool_calls"))] += 1
    assert min(after.values()) > 100, after


def test_an_agent_of_the_corpus_reads_what_our_agents_read():
    from pipelines.seed.jobs import NOTICE, marked
    from services.agents.journal import UNTRUSTED, told

    assert NOTICE == UNTRUSTED and marked("find", "x") == told("find", "x")
    agents = [messages for _, messages in jobs(50) if messages[0]["role"] == "system"]
    assert agents and all(NOTICE in messages[0]["content"] for messages in agents)


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
