"""ThreeJumpSampler: a long chain of a flow map in three calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.sampling.samplers.jump import Jumps


@dataclass(frozen=True)
class ThreeJumpSampler(Jumps):
    """One step of a chain in its middle: a jump to where it begins, the step itself, and a jump from its end to data.

    AnyFlow's flow-map backward simulation (Gu et al. 2026, arXiv 2605.13724): a chain of 50 steps costs three calls.
    The number of steps and which of them are drawn once for all ranks; the second and third jump record a graph.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid when it samples.
        counts: Numbers of steps of the chains that a rollout stands for.
    """

    counts: Sequence[int] = (2, 4, 8, 16, 50)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_empty(self, counts=self.counts)
        for count in self.counts:
            checks.whole(self, 1, checks.MOST_STEPS, counts=count)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """Three calls, two or one where the step is the first or the last of its chain."""
        process, enabled = denoiser.process, torch.is_grad_enabled()
        count = self.counts[draws.shared_integer("count", len(self.counts))]
        chain = [*self.schedule(denoiser, count), process.t_clean]
        step = draws.shared_integer("step", count)
        stops = sorted({chain[0], chain[step], chain[step + 1]}, reverse=True)
        t = torch.full((len(draws),), stops[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise, t)
        calls: list[Prediction] = []
        for here, there in zip(stops, [*stops[1:], process.t_clean], strict=True):
            if here == process.t_clean:
                break
            with torch.set_grad_enabled(enabled and here <= chain[step]):
                calls.append(call(denoiser, x_t, torch.full_like(t, here), condition, there))
                x_t = process.jump(calls[-1], torch.full_like(t, there))
        x0 = calls[-1].x0
        return Rollout(x0, condition, calls[-1].t, step, x0, torch.full_like(t, process.t_clean), tuple(calls))
