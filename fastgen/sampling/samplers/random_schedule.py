"""RandomScheduleSampler: rollouts are a deterministic solver at random times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.jump import Jumps
from fastgen.shapes import where_rows
from fastgen.times import TimeLaw, UniformTime


@dataclass(frozen=True)
class RandomScheduleSampler(Jumps):
    """Moves along the predicted noise at its own times; rollouts do so a random number of times, at random times.

    So a student is trained at all times, not at its own alone (CDM, arXiv 2605.06376; github.com/byliutao/cdm).

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
        time: Law of the times of a rollout's calls after the first.
        longest: Largest number of its calls.
    """

    steps: int = 4
    time: TimeLaw = UniformTime(0.25, 0.95)
    longest: int = 28

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, 1, checks.MOST_STEPS, longest=self.longest)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
        ahead: int = 0,
    ) -> Rollout:
        """A trajectory without gradient, of a length that all ranks share; every sample takes one call of it again.

        That call, drawn for each sample and then moved on by ``ahead``, records a graph; its x0 is the anchor.
        """
        process, first = denoiser.process, self.schedule(denoiser)[0]
        count = 1 + draws.shared_integer("length", self.longest)
        at_first = torch.full((len(draws),), first, dtype=torch.float64, device=draws.device)
        later = [self.time.sample(draws.scoped(f"call{i}"), process).clamp(max=first) for i in range(1, count)]
        times = torch.stack([at_first, *later]).sort(dim=0, descending=True).values
        ends = torch.cat([times[1:], torch.full_like(times[:1], process.t_clean)])
        step = (draws.integers("step", count) + ahead).clamp(max=count - 1)
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise, at_first)
        chosen, second = x_t, denoiser.takes_second_time
        with torch.no_grad():
            for i in range(count - 1):
                x_t = process.jump(denoiser(x_t, times[i], condition, ends[i] if second else None), ends[i])
                chosen = where_rows(step == i + 1, x_t, chosen)
        t, end = (grid.gather(0, step[None])[0] for grid in (times, ends))
        made = denoiser(chosen, t, condition, end if second else None)
        return Rollout.of((made,), condition, step)
