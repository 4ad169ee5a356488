from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.recipe import RECIPES, Recipe, find


def test_the_default_recipe_says_what_the_defaults_are() -> None:
    assert Recipe.load(find("default")) == Recipe()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("trainning: {}", "trainning"),
        ("curation: {holdout: {fractoin: 0.2}}", "curation.holdout.fractoin"),
        ("gate: {confidence: 2}", "gate.confidence"),
        ("curation: {scrub: [names]}", "curation.scrub.0"),
        ("training: {method: ppo}", r"no training\.method ppo; there is: dpo, grpo, pretrain, sft"),
        ("training: {batch_tokens: 512, pack_tokens: 1024}", "a pack of 1024 tokens does not fit into a step of 512"),
        ("training: {start: scratch}", r"set training\.weights to full"),
        ("training: {method: grpo, weights: full}", "takes up adapters only"),
        ("training: {offload: true}", "ddp offloads nothing"),
        ("training: {method: pretrain}", "the method pretrain reads documents"),
        ("documents: {path: a.jsonl}", "the method pretrain reads documents"),
        ("evaluation: {scorer: likelihood}", "measures documents"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=where):
        Recipe.load(path)


def test_comments_do_not_make_another_recipe_but_values_do(tmp_path: Path) -> None:
    bare, commented, other = (tmp_path / f"{name}.yaml" for name in ("bare", "commented", "other"))
    bare.write_text("alias: assistant")
    commented.write_text("# mine\nalias: assistant # whose\n")
    other.write_text("alias: writer")
    assert Recipe.load(bare).digest == Recipe.load(commented).digest != Recipe.load(other).digest


def test_a_recipe_is_found_by_name_or_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("default") == RECIPES / "default.yaml"
    assert find("my.yaml") == Path("my.yaml")
    with pytest.raises(ValueError, match=r"no recipe nonsense; .*default, dpo"):
        find("nonsense")
    with pytest.raises(ValueError, match=r"my\.yaml cannot be read"):
        Recipe.load(find("my.yaml"))
