"""A version as an ONNX graph: token ids and a mask go in, logits come out, for any batch and any length.

Without a key-value cache: whoever generates with it computes the whole text anew for each token. Shapes: B sequences,
T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import Dim
from transformers import PreTrainedModel

from pipelines.export.agreement import Agreement
from pipelines.export.weights import BESIDE, Whole, copy, load

FILE = "model.onnx"
"""Weights beyond 2 GB, more than protobuf takes, go into a file of their own beside it."""


class Logits(torch.nn.Module):
    """The model as it is exported. Positions count from the first token that the mask shows, so padding may stand on
    either side."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.counts = "position_ids" in inspect.signature(model.forward).parameters

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        more = {"position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)} if self.counts else {}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more).logits


def convert(base: Path, adapter: Path | None, out: Path) -> Agreement:
    """Write the version into `out` as ONNX in fp32, and compare what ONNX Runtime answers with what PyTorch does.

    Raises `ValueError` if they differ by more than rounding.
    """
    whole = load(base, adapter)
    with _quiet():
        program = torch.onnx.export(
            Logits(whole.model).eval(),
            (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=[{0: Dim("batch"), 1: Dim("sequence")}] * 2,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # the trace of each node, with this machine's paths in it
    program.save(out / FILE)
    copy(base, out, ("config.json", *BESIDE))
    return Agreement.of(*_answers(whole, out / FILE)).exact("the ONNX graph", "use --format merged")


def _answers(whole: Whole, file: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What PyTorch and ONNX Runtime answer to each probe by itself, then to all as one batch, padded on the left."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(ids_BT: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"input_ids": ids_BT, "attention_mask": mask_BT})[0]

    probes = [probe.numpy() for probe in whole.probes]
    alone = [run(ids_1T, np.ones_like(ids_1T))[0] for ids_1T in probes]
    longest = max(ids_1T.shape[1] for ids_1T in probes)
    gaps = [((0, 0), (longest - ids_1T.shape[1], 0)) for ids_1T in probes]
    ids_BT = np.concatenate([np.pad(ids_1T, gap) for ids_1T, gap in zip(probes, gaps, strict=True)])
    mask_BT = np.concatenate([np.pad(np.ones_like(ids_1T), gap) for ids_1T, gap in zip(probes, gaps, strict=True)])
    together = run(ids_BT, mask_BT)
    rows = [row_TV[-ids_1T.shape[1] :] for row_TV, ids_1T in zip(together, probes, strict=True)]
    return [*whole.logits, *whole.logits], [*alone, *rows]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of libraries that are not there, and of its own deprecated calls."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
