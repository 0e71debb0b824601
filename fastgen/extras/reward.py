"""Reward: a differentiable judge of the student's samples, as a term of any method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.extras.frozen import beside, keep_frozen

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class RewardModel(nn.Module, ABC):
    """Judges samples. Its weights are frozen, keep their dtype and enter no checkpoint.

    A subclass loads its weights in the constructor, from a path that the user gives, and does its own resizing and
    normalisation, differentiably. Rewards should be of order one: subtract the mean and divide by the standard
    deviation that they have on the teacher's samples.
    """

    @abstractmethod
    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """Rewards (B,), larger is better, differentiable in ``samples``.

        Args:
            samples: What people see: images (B, C, H, W), nominally in [-1, 1] and not clamped, or points (B, D).
            condition: As the data module gave it: ``{"prompt": list of B strings}``, ``{"label": (B,)}`` or ``{}``.
        """


class DigitLogProbability(RewardModel):
    """log p(label | image) of the digits classifier that ships with fastgen, at most 0.

    It is also the network of the digits' metrics, so numbers of a student that was trained with it flatter it.
    """

    def __init__(self) -> None:
        super().__init__()
        from fastgen.metrics.extractors.classifier import DigitsClassifier

        self.network = DigitsClassifier().build()

    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        if "label" not in condition:
            raise UserError("DigitLogProbability judges digits by their label; the data module gives none.")
        return -nn.functional.cross_entropy(self.network(samples), condition["label"], reduction="none")


class MotionEnergy(RewardModel):
    """Mean squared difference of neighbouring frames, over its usual values: how much moves.

    A stand-in for the learned judges of motion that are not part of fastgen; it likes flicker as well as motion.

    Args:
        axis: Axis of the frames with the batch axis counted: 1 for clips (B, F, D), 2 for videos (B, C, F, H, W).
        mean: Its mean on the teacher's samples, which is taken off.
        deviation: Its standard deviation there, which it is divided by.
    """

    def __init__(self, axis: int = 1, mean: float = 0.0, deviation: float = 1.0) -> None:
        checks.whole(self, 1, 4, axis=axis)
        checks.finite(self, mean=mean)
        checks.positive(self, deviation=deviation)
        super().__init__()
        self.axis = axis
        self.mean = mean
        self.deviation = deviation

    def forward(self, samples: Tensor, condition: Mapping[str, Any]) -> Tensor:
        energy = samples.diff(dim=self.axis).square().flatten(1).mean(1)
        return (energy - self.mean) / self.deviation


class Reward(Extra):
    """Reward feedback: ``weight * mean(-r)``, or ``weight * mean relu(margin - r)``, on the student's own samples.

    ReFL (Xu et al. 2023, arXiv 2304.05977) beside a distillation loss that keeps the student near the teacher, as in
    DMDR (Jiang et al. 2025, arXiv 2511.13649, a classifier's cross-entropy with weight 0.05) and Hyper-SD (Ren et al.
    2024, arXiv 2404.13686, a margin). Samples are decoded with gradients. Start when samples can be judged.

    Args:
        model: Builds the reward model, e.g. ``{class_path: DigitLogProbability}``.
        weight: Factor of the term.
        start: Student update from which it is active.
        margin: Reward from which a sample is good enough; ``None`` for never.
    """

    model: RewardModel

    def __init__(
        self,
        model: Callable[[], RewardModel],
        weight: float = 0.05,
        start: int = 0,
        margin: float | None = None,
    ) -> None:
        checks.finite(self, margin=margin)
        super().__init__(weight, start)
        self.factory = model
        self.margin = margin

    def build(self, method: Distiller) -> None:
        keep_frozen(self, "model", self.factory)

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        x0 = method.rollout(part, "student").x0
        with torch.autocast(x0.device.type, enabled=False):
            rewards = beside(self.model, x0)(method.codec.decode(x0).float(), part.raw_condition)
        method.record("health/reward", rewards.mean())
        return {"reward": self.weight * (-rewards if self.margin is None else (self.margin - rewards).relu()).mean()}
