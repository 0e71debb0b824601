"""JumpSampler: the student as a deterministic solver."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.samplers.chain import ChainSampler
from fastgen.sampling.samplers.simulation import BackwardSimulation


@dataclass(frozen=True)
class Jumps(ChainSampler, ABC):
    """Keeps the predicted noise between the calls (DDIM, Euler); a student with a second time jumps to the next time.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`.
        level: As there.
        steps: As there.
    """

    moves: ClassVar[Literal["jump"]] = "jump"

    def destination(self, process: Process, following: float) -> float:
        return following

    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        return prediction.process.jump(prediction, t)


@dataclass(frozen=True)
class JumpSampler(BackwardSimulation, Jumps):
    """Moves along the predicted noise (DDIM, Euler, flow maps); rollouts are the chain, stopped early.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
        stop: Where rollouts stop: a ``random`` step that all ranks share, or the ``last``.
        gradient_calls: How many of a rollout's last calls record a graph.
    """
