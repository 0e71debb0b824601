"""RenoiseSampler: fresh noise between the calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.samplers.simulation import BackwardSimulation


@dataclass(frozen=True)
class RenoiseSampler(BackwardSimulation):
    """Predicts x0 and adds fresh noise to it (consistency models, LCM, DMD2).

    A student with a second time jumps to data and back.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
        stop: Where rollouts stop: a ``random`` step that all ranks share, or the ``last``.
        gradient_calls: How many of a rollout's last calls record a graph.
    """

    moves: ClassVar[Literal["renoise"]] = "renoise"

    def destination(self, process: Process, following: float) -> float:
        return process.t_clean

    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        x0 = prediction.x0
        return prediction.process.add_noise(x0, draws.normal(f"noise{number}", x0.shape[1:], dtype), t)
