"""How well a model folder calls tools that the generator offers: new scenes, jobs, and the held-out domains."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.seed.corpus import HELD_OUT_TOOLS, Row, scenes, traffic
from pipelines.seed.realise import Request, call

UNSEEN_SEED = 1_000_003
"""Far from the recipe's seeds, so that no scene of the evaluation was trained on."""


def new_scenes(n: int) -> list[Row]:
    """`n` rows of scenes that pre-training did not draw, whose answer is a call."""
    rows = (r for s in scenes(UNSEEN_SEED) for r in s.rows() if r["messages"][-1].get("tool_calls"))
    return list(islice(rows, n))


def new_jobs(n: int) -> list[Row]:
    """`n` rows of jobs that pre-training did not draw, each up to a call that follows another."""
    rows = (r for s in islice(scenes(UNSEEN_SEED, late=0), 1, None, 2) for r in s.rows())
    later = (r for r in rows if r["messages"][-1].get("tool_calls") and r["messages"][-2]["role"] == "tool")
    return list(islice(later, n))


def held_out(n: int) -> list[Row]:
    """`n` rows of the demo's traffic, all its tools offered."""
    drawn = (Request(r["text"], r["tool"], r["arguments"]) for r in traffic(n, UNSEEN_SEED))
    return [{"messages": [{"role": "user", "content": r.text}, call(r)], "tools": HELD_OUT_TOOLS} for r in drawn]


def score(folder: Path, rows: list[Row], batch: int = 32) -> dict[str, float]:
    """Greedy answers of the model in `folder`: share of right tools, and of right tools with all arguments right."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    right_tool = right = 0
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        prompts = [
            tokenizer.apply_chat_template(
                r["messages"][:-1], tools=r["tools"], add_generation_prompt=True, tokenize=False
            )
            for r in part
        ]
        inputs = tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            ids = model.generate(**inputs, max_new_tokens=128, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for row, text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            wanted, given = row["messages"][-1]["tool_calls"][0]["function"], parse(text)
            right_tool += given.get("name") == wanted["name"]
            right += given == {"name": wanted["name"], "arguments": wanted["arguments"]}
    return {
        "tool_accuracy": round(right_tool / len(rows), 3),
        "exact_match": round(right / len(rows), 3),
        "n": len(rows),
    }


def parse(text: str) -> dict[str, Any]:
    """The first call in an answer, or nothing if there is none that is well formed."""
    try:
        given = json.loads(text.split("<tool_call>")[1].split("</tool_call>")[0])
    except (IndexError, json.JSONDecodeError):
        return {}
    return given if isinstance(given, dict) else {}
