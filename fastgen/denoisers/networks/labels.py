"""Class labels as a condition."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.processes import PredictionKind, Process


class LabelledDenoiser(Denoiser):
    """A denoiser whose condition is ``{"label": (B,) int64}``; the label ``num_classes`` means "no label".

    Args:
        process: How data becomes noise.
        prediction: What ``predict`` returns.
        sample_shape: Shape of one sample without the batch axis.
        num_classes: Number of classes; 0 means unconditional, labels are then ignored.
        weights: safetensors file, or ``None``.
    """

    def __init__(
        self,
        process: Process,
        prediction: PredictionKind,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        weights: str | None = None,
    ) -> None:
        super().__init__(process, prediction, sample_shape, weights)
        checks.whole(self, 0, num_classes=num_classes)
        self.num_classes = num_classes

    def labels(self, condition: Condition, like: Tensor) -> Tensor | None:
        """Labels (B,) of the batch ``like`` (B, ...); ``None`` for an unconditional network.

        A missing label is the null label, since an empty condition means unconditional.
        """
        if self.num_classes == 0:
            return None
        if "label" in condition:
            return condition["label"]
        return torch.full((like.shape[0],), self.num_classes, dtype=torch.int64, device=like.device)

    def null_condition(self, condition: Condition) -> Condition:
        """The same condition with the null label.

        Raises:
            UserError: If the network is unconditional but got a condition.
        """
        if self.num_classes == 0:
            return super().null_condition(condition)
        return {
            name: torch.full_like(value, self.num_classes) if name == "label" else value
            for name, value in condition.items()
        }
