"""Does a conditional sample show its class?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.metrics.base import SampleMetric
from fastgen.metrics.samples.feature_metric import FeatureMetric, FeatureSpace
from fastgen.results.kinds import Kind


@dataclass(frozen=True)
class ClassAccuracy(FeatureMetric):
    """Share of labelled samples whose highest logit is their label; gives ``accuracy``.

    Nothing without labels, or if the extractor is no classifier of the data's labels. A fidelity number: a sampler with
    one image per class gets 1.
    """

    numbers = {"accuracy": Kind("fidelity", "higher")}
    needs_reference = False

    def build(self, space: FeatureSpace) -> CorrectLabels:
        """Counts are enough; of a network that does not know the labels nothing is counted."""
        return CorrectLabels(lambda features, _: space.logits(features) if space.logits_show_labels else None)


class CorrectLabels(SampleMetric):
    """How many samples show their label, and how many have one.

    Args:
        classify: Samples (B, ...) and their labels (B,) to logits (B, K); ``None`` where there is no classifier.
    """

    numbers = ClassAccuracy.numbers
    correct: Tensor
    count: Tensor

    def __init__(self, classify: Callable[[Tensor, Tensor], Tensor | None]) -> None:
        super().__init__()
        self._classify = (classify,)  # in a tuple: a network is no part of this module
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add samples (B, ...) that should show ``label`` (B,)."""
        if label is None or (logits := self._classify[0](samples, label)) is None:
            return
        self.correct = self.correct + (logits.argmax(dim=1).to(self.device) == label.to(self.device)).sum()
        self.count = self.count + len(label)

    def compute(self) -> dict[str, float]:
        """``{"accuracy": share}``, or nothing without labels."""
        return {"accuracy": float(self.correct) / int(self.count)} if self.count > 0 else {}
