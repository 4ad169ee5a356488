from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.export.exporter import export
from tests.pipelines.export.conftest import House

ENGINE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    engine = LLM(model=sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=4)
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])]
    answers = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)
    print(json.dumps([list(answer.outputs[0].token_ids) for answer in answers]))
"""


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_vllm_answers_with_merged_weights_as_transformers_does(house: House, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = export(house.settings, "assistant@1", "merged", tmp_path / "merged", base=str(house.base))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).float()
    expected, prompts = [], []
    for text in ("switch on the light in the kitchen", "please", "user, assistant, light"):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        prompts.append(ids[0].tolist())
        answer = model.generate(ids, max_new_tokens=16, do_sample=False)
        expected.append(answer[0, ids.shape[1] :].tolist())
    (tmp_path / "engine.py").write_text(ENGINE)
    done = subprocess.run(
        [sys.executable, tmp_path / "engine.py", folder, json.dumps(prompts)],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
