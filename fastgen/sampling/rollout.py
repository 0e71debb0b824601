"""What a student produced and how: the record that losses, critics and extras read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.processes import Prediction


@dataclass(frozen=True)
class Rollout:
    """What the student produced and how.

    Attributes:
        x0: The sample that losses judge, (B, ...).
        condition: What was asked for.
        t: The time of the student's last call, (B,).
        step: Index of that call among the sampler's steps, one for all samples or one for each (B,).
        anchor: Where the sampler stopped; x0 itself unless a method stops at a noisy level, (B, ...).
        t_anchor: The time of the anchor, (B,).
        trajectory: The calls that led there, noisiest first and the last one included; each knows its ``x_t`` (B, ...),
            ``t`` (B,) and what was predicted. Empty if the sampler does not move all samples together.
    """

    x0: Tensor
    condition: Condition
    t: Tensor
    step: int | Tensor
    anchor: Tensor
    t_anchor: Tensor
    trajectory: tuple[Prediction, ...] = ()

    @classmethod
    def of(cls, calls: tuple[Prediction, ...], condition: Condition, step: int | Tensor) -> Rollout:
        """Of calls the last of which predicts a clean sample, at ``step``."""
        x0, t = calls[-1].x0, calls[-1].t
        return cls(x0, condition, t, step, x0, torch.full_like(t, calls[-1].process.t_clean), calls)

    def detach(self) -> Rollout:
        """The same record without its graph."""
        calls = tuple(prediction.detach() for prediction in self.trajectory)
        return replace(self, x0=self.x0.detach(), anchor=self.anchor.detach(), trajectory=calls)
