"""AnytimeSampler: a student for any number of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler, call
from fastgen.sampling.samplers.chain import first_time
from fastgen.sampling.samplers.renoise import RenoiseSampler
from fastgen.times import FlowTime, TimeLaw


@dataclass(frozen=True)
class AnytimeSampler(Sampler):
    """Fresh noise between the calls; rollouts make a random number of them, at random times.

    Each call after the first happens at a time drawn for every sample, or where the last one did if that was cleaner,
    on fresh noise (Zheng et al. 2025, rCM, arXiv 2510.08431, and its code, which cycles through the numbers).

    Args:
        time: Law of the times of further calls.
        level: Noise level sigma / alpha of the first call; ``max`` is that of ``t_max``.
        steps: Largest number of calls of a rollout, and the number of calls of a sample.
    """

    moves: ClassVar[Literal["renoise"]] = "renoise"
    time: TimeLaw = FlowTime(shift=5.0)
    level: float | Literal["max"] = "max"
    steps: int = 4

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        if not isinstance(self.level, str):
            checks.positive(self, level=self.level)

    @property
    def chain(self) -> RenoiseSampler:
        """How it samples."""
        return RenoiseSampler(level=self.level, steps=self.steps)

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return self.chain.schedule(denoiser, steps)

    def trained_steps(self) -> int:
        return self.steps

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return self.chain.sample(denoiser, draws, condition, steps, dtype)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """One to ``steps`` calls, a number that all ranks share; only the last records a graph."""
        process, shape = denoiser.process, denoiser.sample_shape
        t = torch.full((len(draws),), first_time(process, self.level), dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", shape, dtype) if noise is None else noise, t)
        further, calls = draws.shared_integer("step", self.steps), []
        for i in range(1, further + 1):
            with torch.no_grad():
                calls.append(call(denoiser, x_t, t, condition, process.t_clean))
                t = torch.minimum(t, self.time.sample(draws.scoped(f"call{i}"), process))
                x_t = process.add_noise(calls[-1].x0, draws.normal(f"noise{i}", shape, dtype), t)
        calls.append(call(denoiser, x_t, t, condition, process.t_clean))
        x0 = calls[-1].x0
        return Rollout(x0, condition, t, further, x0, torch.full_like(t, process.t_clean), tuple(calls))
