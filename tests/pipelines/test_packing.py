"""Packed rows train exactly as they would by themselves."""

from __future__ import annotations

from itertools import islice

import pytest

from pipelines.packing import IGNORE, Example, collate, fitting, pack, pad
from pipelines.seed.corpus import scenes
from pipelines.seed.pretrain import WEIGHTS, encode_scene


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def tiny(torch):
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines import attention

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    ).eval()
    model.set_attn_implementation(attention.NAME)
    return model


@pytest.mark.parametrize("short", [True, False], ids=["short rows", "rows for the flash kernel"])
def test_packed_logits_and_loss_equal_those_of_single_rows(torch, tokenizer, tiny, monkeypatch, short):
    if not short:
        monkeypatch.setattr("pipelines.attention.SHORT", 0)
    examples = [e for s in islice(scenes(1), 4) for e in encode_scene(tokenizer, s)]
    packs = pack(examples, 700)
    assert sum(map(len, packs)) < 0.7 * sum(map(len, examples))
    batch = collate(packs, tokenizer.pad_token_id)
    with torch.no_grad():
        packed = tiny(**{k: v for k, v in batch.items() if k != "labels"}).logits
        single = [tiny(input_ids=torch.tensor([e.prompt_ids + e.answer_ids])).logits[0] for e in examples]
    asked = batch["labels"][:, 1:] != IGNORE
    got, targets = packed[:, :-1][asked], batch["labels"][:, 1:][asked]
    by_ids = {
        tuple(e.prompt_ids + e.answer_ids): logits[len(e.prompt_ids) - 1 : -1]
        for e, logits in zip(examples, single, strict=True)
    }
    want = torch.cat([by_ids[ids] for p in packs for ids in rows_of(p)])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        loss = tiny(**batch).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(want, targets), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_pack_are_those_of_its_rows(torch, tokenizer, tiny):
    examples = [e for s in islice(scenes(3), 2) for e in encode_scene(tokenizer, s)]

    def gradients(batches):
        tiny.zero_grad()
        for batch in batches:
            labels = batch.pop("labels")[:, 1:]
            logits = tiny(**batch).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
        return torch.cat([p.grad.flatten() for p in tiny.parameters()])

    alone = gradients([collate(pack([example], 700), 0) for example in examples])
    torch.testing.assert_close(gradients([collate(pack(examples, 700), 0)]), alone, rtol=1e-3, atol=1e-3)


def rows_of(packed):
    """The whole token ids of each row in a pack, in its order, read back from the layout."""
    for group in dict.fromkeys(packed.group):
        of = {}
        for token, g, r in zip(packed.input_ids, packed.group, packed.row, strict=True):
            if g == group:
                of.setdefault(r, []).append(token)
        prefix = of.pop(0, [])
        yield from (tuple(prefix + rest) for rest in of.values())


def test_every_row_is_packed_once_whatever_the_order(tokenizer):
    examples = [e for s in islice(scenes(2), 5) for e in encode_scene(tokenizer, s)]
    mixed = examples[::2] + examples[1::2]
    packs = pack(mixed, 600)
    assert all(len(p) <= 600 for p in packs)
    labels = sorted(i for p in packs for i in p.labels if i != IGNORE)
    assert labels == sorted(i for e in examples for i in e.answer_ids)
    assert sum(map(len, packs)) < 0.8 * sum(map(len, mixed))


def test_a_row_longer_than_a_pack_is_an_error_unless_it_is_left_out():
    rows = [Example([1, 2, 3], [4]), Example([1, 2, 3, 4, 5, 6], [7, 8])]
    with pytest.raises(ValueError, match="has 8 tokens, a pack holds 6"):
        pack(rows, 6)
    kept, left_out = fitting(rows, 6)
    assert kept == rows[:1] and left_out == 1


def test_rows_with_nothing_in_common_are_packed_side_by_side(torch, tiny):
    rows = [Example([5, 6, 7], [8, 9]), Example([10, 11], [12])]
    packs = pack(rows, 16)
    assert len(packs) == 1
    batch = collate([*packs, *pack([Example([5, 6, 7, 8, 9, 10, 11], [12, 13])], 16)], 0)
    assert batch["input_ids"].shape == (2, 9)
    with torch.no_grad():
        loss = tiny(**batch).loss
        # The second row neither sees the first nor is seen by it, and padding is seen by none.
        other = tiny(**collate(pack([Example([1, 2, 3], [4, 5]), Example([10, 11], [12])], 16), 0)).logits[0, 5:]
        assert torch.equal(tiny(**batch).logits[0, 5:8], other) and torch.isfinite(loss)


def test_identical_prompts_keep_a_token_of_their_own():
    packs = pack([Example([1, 2, 3], [4]), Example([1, 2, 3], [5])], 16)
    assert packs[0].input_ids == [1, 2, 3, 4, 3, 5]
    assert packs[0].labels == [IGNORE, IGNORE, IGNORE, 4, IGNORE, 5]
    assert packs[0].position_ids == [0, 1, 2, 3, 2, 3]


def test_what_a_run_only_read_is_not_learnt_packed_or_padded(torch, tiny):
    run = Example([5, 6, 7], [8, 9, 10, 11, 12], read=((2, 4),))
    assert run.labels == [8, 9, IGNORE, IGNORE, 12]
    packed, padded = collate(pack([run, Example([5, 6, 8], [13])], 16), 0), pad([run], 0)
    assert padded["labels"].tolist() == [[IGNORE] * 3 + run.labels]
    assert [label for label in packed["labels"][0].tolist() if label != IGNORE] == [8, 9, 12, 13]
    with torch.no_grad():
        logits = tiny(**{k: v for k, v in collate(pack([run], 16), 0).items() if k != "labels"}).logits[0]
        want = torch.nn.functional.cross_entropy(logits[[2, 3, 6]], torch.tensor([8, 9, 12]))
        torch.testing.assert_close(tiny(**collate(pack([run], 16), 0)).loss, want)
