"""PhasedSampler: a solver whose steps belong to phases; rollouts stop where a phase ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.sampling.samplers.jump import Jumps


@dataclass(frozen=True)
class PhasedSampler(Jumps):
    """The student as a deterministic solver in phases; rollouts stop where one of the phases ends, the anchor.

    Args:
        times: As in :class:`~fastgen.sampling.samplers.chain.ChainSampler`: a list, or the process's own ``grid``.
        level: Noise level sigma / alpha of the first call on the grid, or ``max``.
        steps: Number of calls on the grid.
        phases: Number of phases, all of the same number of calls.
    """

    steps: int = 4
    phases: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, phases=self.phases)
        if self.trained_steps() % self.phases:
            raise UserError(
                f"PhasedSampler cannot cut {self.trained_steps()} steps into {self.phases} equal phases; change one "
                "of them."
            )

    def phase(self, step: int) -> int:
        """The phase of a step; 0 is the noisiest."""
        return step * self.phases // self.trained_steps()

    def boundaries(self, denoiser: Denoiser) -> list[float]:
        """The times at which one phase ends and the next begins."""
        length = self.trained_steps() // self.phases
        return self.schedule(denoiser)[length::length]

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
        phase: int | None = None,
    ) -> Rollout:
        """The chain up to a random step (of ``phase``) that all ranks share, which jumps to the end of its phase.

        That is the anchor. Only that step records a graph, for x0; no gradient runs through the anchor (Fan et al.
        2025, Phased DMD, arXiv 2510.27684, with a random gradient step within the phase).
        """
        process, times = denoiser.process, self.schedule(denoiser)
        length = len(times) if phase is None else len(times) // self.phases
        step = draws.shared_integer("step", length) + length * (phase or 0)
        end = [*self.boundaries(denoiser), process.t_clean][self.phase(step)]
        t = [torch.full((len(draws),), time, dtype=torch.float64, device=draws.device) for time in (*times, end)]
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise, t[0])
        calls = []
        for i in range(step):
            with torch.no_grad():
                calls.append(call(denoiser, x_t, t[i], condition, times[i + 1]))
                x_t = process.jump(calls[-1], t[i + 1])
        calls.append(call(denoiser, x_t, t[step], condition, end))
        anchor = process.jump(calls[-1].detach(), t[-1])
        return Rollout(calls[-1].x0, condition, t[step], step, anchor, t[-1], tuple(calls))
