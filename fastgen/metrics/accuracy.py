"""Does a conditional sample show its class?"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.metrics.base import SampleMetric


class ClassAccuracy(SampleMetric):
    """Share of labelled samples whose highest logit is their label; gives ``accuracy``, or nothing without labels.

    A fidelity number: a sampler with one image per class gets 1.
    """

    shows_fidelity = True
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add logits (B, K) of samples that should show ``label`` (B,)."""
        if label is None:
            return
        self.correct = self.correct + (samples.argmax(dim=1).to(self.device) == label.to(self.device)).sum()
        self.count = self.count + len(label)

    def compute(self) -> dict[str, float]:
        """``{"accuracy": share}``."""
        return {"accuracy": float(self.correct) / int(self.count)} if self.count > 0 else {}
