from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from pipelines.export.exporter import export
from tests.pipelines.export.conftest import House, Run


@pytest.fixture(scope="module")
def folder(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graph") / "assistant-onnx"
    return export(house.settings, "assistant@1", "onnx", out, base=str(house.base))


def test_onnx_runtime_answers_as_base_and_adapter_do_at_any_length_and_padding(
    house: House, folder: Path, torch
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(house.base).float()
    model = PeftModel.from_pretrained(base, str(house.adapter)).eval()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    ids = np.random.default_rng(0).integers(5, 300, (3, 61))
    lengths = (61, 1, 20)
    left = np.array([[place >= 61 - length for place in range(61)] for length in lengths]).astype(np.int64)
    for mask in (left, left[:, ::-1].copy()):
        found = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        for row, shown in enumerate(mask.astype(bool)):
            with torch.no_grad():
                expected = model(input_ids=torch.tensor(ids[row : row + 1, shown])).logits[0].numpy()
            assert np.abs(found[row, shown] - expected).max() < 1e-4 * np.abs(expected).max()


def test_card_has_the_difference_and_its_example_runs(folder: Path, run_example: Run) -> None:
    card = (folder / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "ONNX Runtime's logits differ from PyTorch's by at most" in card
    assert "No key-value cache" in card
    assert run_example(folder, {})["printed"].strip()


def test_graph_keeps_no_path_of_the_machine_that_traced_it(house: House, folder: Path) -> None:
    graph = (folder / "model.onnx").read_bytes()
    for path in (house.state.parent, Path(json.__file__).parent, Path(np.__file__).parent.parent, Path.cwd()):
        assert str(path).encode() not in graph
    assert b".py" not in graph


def test_a_graph_of_another_model_is_not_put_in_place(
    house: House, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An export that went wrong: what comes out of it is the graph of another version.
    file = folder / "model.onnx"
    wrong = SimpleNamespace(model=onnx_ir.load(file), save=lambda out: shutil.copyfile(file, out))
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: wrong)
    with pytest.raises(ValueError, match=r"the ONNX graph gives other answers than the version.*use --format merged"):
        export(house.settings, "assistant@2", "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())
