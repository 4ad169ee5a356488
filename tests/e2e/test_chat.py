"""`trivium chat` as somebody types: the answers are the cluster's, and thumbs are feedback in its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.e2e.using import each, log_entries

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def typed(cluster: Cluster, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "trivium", "chat", *options],
        input=text,
        env=cluster.variables,
        cwd=cluster.state,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_thumbs_and_corrections_are_feedback_on_the_answers_before_them(cluster: Cluster, tmp_path: Path) -> None:
    said = typed(
        cluster,
        "/up\nbook a table for two\n/up just so\nand for three\n/fix call the restaurant\n/new\nhello\n/nonsense\n",
        *("--max-tokens", "32"),
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("noted") == 2
    assert said.stderr.splitlines() == [
        "there is no answer yet that could be judged",
        "there is no /nonsense; /help says what there is",
    ]
    entries = log_entries(cluster, tmp_path / "log.jsonl")
    mine = [record for record in each(entries, "record") if record["session"].startswith("chat-")]
    two, three, hello = sorted(mine, key=lambda record: record["time"])[-3:]
    assert two["session"] == three["session"] != hello["session"]
    assert [message["content"] for message in three["messages"][::2]] == ["book a table for two", "and for three"]
    assert len(hello["messages"]) == 1, "/new forgets"
    given = {each["request_id"]: each for each in each(entries, "feedback")}
    assert (given[two["request_id"]]["score"], given[two["request_id"]]["comment"]) == (1.0, "just so")
    assert given[three["request_id"]]["correction"] == {"role": "assistant", "content": "call the restaurant"}
    assert hello["request_id"] not in given
    for answer in (two, three, hello):
        assert (answer["answer"]["content"] or "").strip()[:20] in said.stdout


def test_a_model_that_is_not_there_is_named_in_one_sentence(cluster: Cluster) -> None:
    said = typed(cluster, "hello\n", "--model", "nobody")
    assert "nobody" in said.stderr and len(said.stderr.strip().splitlines()) == 1
