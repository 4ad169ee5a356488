from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipelines.export.card import plain
from pipelines.export.exporter import export
from tests.pipelines.export.conftest import House


@pytest.fixture(scope="module")
def card(house: House, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("card") / "assistant"
    return (export(house.settings, "assistant@1", "adapter", out) / "README.md").read_text()


def test_front_matter_is_what_hugging_face_reads(card: str) -> None:
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "base_model": "acme/tiny",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["trivium", "lora"],
    }


@pytest.mark.parametrize(
    "told",
    [
        "| Version | assistant@1, champion when it was exported |",
        "| Before it | assistant@0 (former) |",
        f"| Recipe | mine.yaml, digest `{'e' * 64}` |",
        f"| Dataset | curate-a, digest `{'d' * 64}` |",
        "| Rows | 1,200 from the log, 130 of replay against forgetting, 88 held out |",
        "| Log | version 7 of its table |",
        "book\\_table 700",
        "Left out: 31 near duplicate.",
        "Replaced by placeholders: 4 email.",
        "| loss | 0.25 |",
        "The gate accepted it. Both versions answered 88 rows",
        "| Score | 0.520 | 0.910 |",
        "Gain +0.390; with 95 % confidence at least +0.310",
        "The gate's reasons: better by a margin.",
        "| canary, 10 % of the sessions |",
        "| became the champion | 40 sessions of its own against 310, scores 0.875 and 0.625; e-values: better 65.5,",
        "--max-lora-rank 8 --lora-modules assistant@1=./assistant",
        "transformers 5.",
    ],
)
def test_card_tells_what_the_lineage_knows(card: str, told: str) -> None:
    assert told in card.replace("2027-01-15 08:00:00 UTC", "")


def test_digests_are_those_of_the_registered_files(house: House, card: str) -> None:
    from cluster.registry import sha256

    digest = sha256(house.adapter / "adapter_model.safetensors")
    assert f"| SHA-256 of the registered `adapter_model.safetensors` | `{digest}` |" in card


def test_every_table_is_one(card: str) -> None:
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for above, row in zip(card.splitlines(), card.splitlines()[1:], strict=False):
        if above.startswith("|") and row.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", above)) == len(re.findall(r"(?<!\\)\|", row))
    assert sum(set(row) <= set("|-") for row in rows) == 5


def test_what_people_wrote_and_where_things_lie_stays_at_home(house: House, card: str) -> None:
    assert str(house.state.parent) not in card
    assert "hunter2" not in card
    assert "/mine.yaml" not in card


def test_names_that_callers_chose_are_text_and_nothing_else(card: str) -> None:
    assert not re.search(r"(?<!\\)<img", card)
    assert "\\<img src=x\\> \\| play 500" in card
    assert plain("a\n| [b](c) `d`") == r"a \| \[b\](c) \`d\`"


def test_a_version_that_nothing_is_known_of_says_so(house: House, tmp_path: Path) -> None:
    card = (export(house.settings, "assistant@2", "merged", tmp_path / "out") / "README.md").read_text()
    assert "No gate has judged this version" in card
    for absent in ("## Evaluation", "## Training", "## In service", "| Recipe", "license"):
        assert absent not in card
