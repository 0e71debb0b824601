"""TrajectorySampler: rollouts stop where one of the solver's steps ends, another one for every sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.jump import Jumps


@dataclass(frozen=True)
class TrajectorySampler(Jumps):
    """The student as a deterministic solver; rollouts stop where one of its steps ends, the anchor.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
    """

    steps: int = 4

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The whole trajectory without gradient; every sample takes a random one of its steps again, with gradient.

        The anchor is where that step ends (Luo et al. 2025, TDM, arXiv 2503.06674). No gradient runs through it.
        """
        process, times = denoiser.process, self.schedule(denoiser)
        ends = [*times[1:], process.t_clean]
        step = draws.integers("step", len(times))
        starts_at, ends_at = (torch.tensor(grid, dtype=torch.float64, device=draws.device) for grid in (times, ends))
        first = draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise
        x_t = process.start(first, starts_at[:1].expand(len(draws)))
        chosen = x_t
        with torch.no_grad():
            for i in range(len(times) - 1):
                here, there = starts_at[i].expand(len(draws)), ends_at[i].expand(len(draws))
                x_t = process.jump(denoiser(x_t, here, condition, self.second_time(denoiser, there)), there)
                chosen = torch.where((step == i + 1).reshape(-1, *[1] * (x_t.ndim - 1)), x_t, chosen)
        t, t_anchor = starts_at[step], ends_at[step]
        prediction = denoiser(chosen, t, condition, self.second_time(denoiser, t_anchor))
        anchor = process.jump(prediction.detach(), t_anchor)
        return Rollout(prediction.x0, condition, t, step, anchor, t_anchor)

    @staticmethod
    def second_time(denoiser: Denoiser, end: Tensor) -> Tensor | None:
        """Where a step ends, for a flow map."""
        return end if denoiser.takes_second_time else None
