"""BackwardSimulation: rollouts are the student's own chain, stopped early."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.chain import ChainSampler


@dataclass(frozen=True)
class BackwardSimulation(ChainSampler, ABC):
    """Trains the student on the states that it is called at when it samples (Yin et al. 2024, DMD2, 2405.14867, 4.4).

    Args:
        times: As in :class:`ChainSampler`.
        level: As in :class:`ChainSampler`.
        steps: As in :class:`ChainSampler`.
        stop: Where a rollout stops and predicts x0: at a ``random`` step that all ranks share, or at the ``last``.
        gradient_calls: How many of a rollout's last calls record a graph; 1 in DMD2. More let the gradient run through
            the chain (DRaFT, arXiv 2309.17400; DP-DMD), at the memory of as many calls.
    """

    stop: Literal["random", "last"] = "random"
    gradient_calls: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, gradient_calls=self.gradient_calls)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The chain up to the step where it stops, and its x0 there."""
        times = self.schedule(denoiser)
        step = len(times) - 1
        if self.stop == "random" and step:
            step = draws.shared_integer("step", len(times))
        calls = tuple(self.calls(denoiser, draws, condition, times[: step + 1], dtype, noise, self.gradient_calls))
        return Rollout.of(calls, condition, step)
