"""StudentSampler: both ways of moving by one option."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.samplers.renoise import RenoiseSampler


@dataclass(frozen=True)
class StudentSampler(RenoiseSampler):
    """:class:`RenoiseSampler`, or with ``stochastic: false`` :class:`JumpSampler`, by their former name.

    Args:
        times: As in :class:`RenoiseSampler`.
        level: As there.
        steps: As there.
        stop: As there.
        gradient_calls: As there.
        stochastic: Move by fresh noise, else along the predicted noise.
    """

    stochastic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stochastic:
            object.__setattr__(self, "moves", "jump")

    def destination(self, process: Process, following: float) -> float:
        return super().destination(process, following) if self.stochastic else following

    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        if self.stochastic:
            return super().move(prediction, t, draws, number, dtype)
        return prediction.process.jump(prediction, t)
