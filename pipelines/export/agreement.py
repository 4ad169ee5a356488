"""How near what was written comes to what the version answers, and whether that is near enough.

Logits are compared, not texts: where two tokens are nearly as likely, rounding alone decides which one is written.
Shapes: N places of all prompts, T of one, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT = 1e-4
"""Largest difference of a logit that passes for rounding in fp32, as a share of the largest logit. Seen: up to 2e-5."""
ROUNDING = 2.0
"""How much further than serving in the base's precision takes an answer from fp32, rounding the merged weights may take
it (root mean square over the logits). Seen: 0.5 to 1.0, in bf16."""


@dataclass(frozen=True)
class Agreement:
    """How near two computations of the same logits came."""

    difference: float
    """The largest of a logit."""
    typical: float
    """Root mean square of the differences."""
    largest: float
    """The largest logit, in absolute value."""
    same: float
    """Share of the places at which both find the same token the likeliest."""
    lengths: tuple[int, ...]
    """Tokens of the prompts that were compared."""

    @classmethod
    def of(cls, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Agreement:
        """Both hold TxV logits for each prompt."""
        a_NV, b_NV = np.concatenate(expected), np.concatenate(found)
        return cls(
            difference=float(np.abs(a_NV - b_NV).max()),
            typical=float(np.sqrt(np.square(a_NV - b_NV).mean())),
            largest=float(np.abs(a_NV).max()),
            same=float((a_NV.argmax(-1) == b_NV.argmax(-1)).mean()),
            lengths=tuple(len(logits_TV) for logits_TV in expected),
        )

    def exact(self, what: str, instead: str) -> Agreement:
        """Itself. Raises `ValueError` if the difference is more than rounding in fp32, or not a number."""
        if not self.difference <= EXACT * self.largest:
            raise ValueError(
                f"{what} gives other answers than the version: logits up to {self.largest:.3g} differ by up to "
                f"{self.difference:.3g}, which is more than rounding; {instead}"
            )
        return self

    def told(self) -> str:
        """One sentence of figures."""
        return (
            f"ONNX Runtime's logits differ from PyTorch's by at most {self.difference:.2g} (logits go up to "
            f"{self.largest:.3g}, prompts of {min(self.lengths)} to {max(self.lengths)} tokens, alone and as one "
            f"padded batch); {EXACT:g} of the largest logit is let pass."
        )


@dataclass(frozen=True)
class Merged:
    """What merging has cost."""

    precision: str
    """Of the weights, such as `bfloat16`."""
    saved: Agreement
    """The merged weights as saved, computed in fp32, against base and adapter in fp32."""
    served: Agreement
    """Base and adapter apart, all in `precision`, against the same: how a server computes them."""

    def close(self, instead: str) -> Merged:
        """Itself. Raises `ValueError` if rounding took the merged weights further than serving them apart would."""
        near = max(EXACT * self.saved.largest, ROUNDING * self.served.typical)
        if not self.saved.typical <= near:
            raise ValueError(
                f"rounded to {self.precision}, the merged weights answer otherwise: logits differ by "
                f"{self.saved.typical:.3g}, and by {self.served.typical:.3g} where base and adapter are served apart; "
                f"{instead}"
            )
        return self

    def told(self) -> str:
        """One sentence of figures."""
        saved, served = self.saved, self.served
        return (
            f"The merged weights, {self.precision}, as they are read back, against base and adapter in fp32: logits "
            f"differ by {saved.typical:.2g} (root mean square; at most {saved.difference:.2g}, where logits go up to "
            f"{saved.largest:.3g}), and the likeliest token is the same at {saved.same:.1%} of {sum(saved.lengths)} "
            f"places. Serving base and adapter apart in {self.precision} changes logits by {served.typical:.2g} (at "
            f"most {served.difference:.2g}), and keeps {served.same:.1%}."
        )
