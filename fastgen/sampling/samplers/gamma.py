"""GammaSampler: a flow map that goes further than it must and gets some noise back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.samplers.simulation import BackwardSimulation


@dataclass(frozen=True)
class GammaSampler(BackwardSimulation):
    """Jumps below the next noise level and adds fresh noise up to it (CTM, arXiv 2310.02279, algorithm 3; AYF).

    The jump ends at ``sqrt(1 - gamma^2)`` times the level, and noise of ``gamma`` times the level is added. With gamma
    0 it is ``JumpSampler``, with 1 ``RenoiseSampler``. It suits students that are told where a jump ends.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
        stop: Where rollouts stop: a ``random`` step that all ranks share, or the ``last``.
        gradient_calls: How many of a rollout's last calls record a graph.
        gamma: Share of the noise that is fresh.
    """

    gamma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fraction(self, gamma=self.gamma)

    def below(self, process: Process, t: Tensor) -> Tensor:
        """The time (B,) at which a jump towards ``t`` (B,) ends."""
        if self.gamma == 1.0:
            return torch.full_like(t, process.t_clean)
        return t if self.gamma == 0.0 else process.time((1.0 - self.gamma**2) ** 0.5 * process.ratio(t))

    def destination(self, process: Process, following: float) -> float:
        return float(self.below(process, torch.tensor(following, dtype=torch.float64, device="cpu")))

    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        process, s = prediction.process, self.below(prediction.process, t)
        x_s = process.jump(prediction, s)
        return process.renoise(x_s, s, t, draws.normal(f"noise{number}", x_s.shape[1:], dtype))
