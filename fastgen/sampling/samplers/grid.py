"""GridSampler: a solver on the grid that the student carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.on_grid import OnGrid
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler
from fastgen.sampling.samplers.jump import JumpSampler
from fastgen.sharding import whole


@dataclass(frozen=True)
class GridSampler(Sampler):
    """Euler (DDIM) steps at times that are the student's own, learned or searched; or on the process's grid.

    Args:
        steps: Number of times that the student has.
    """

    moves: ClassVar[Literal["jump"]] = "jump"
    steps: int = 4

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)

    def chain(self, denoiser: Denoiser) -> JumpSampler:
        """The solver at the times of a student.

        Raises:
            UserError: If it has none.
        """
        if not isinstance(denoiser, OnGrid):
            raise UserError(
                f"GridSampler calls a student at times of its own, and {type(denoiser).__name__} has none; take "
                "JumpSampler."
            )
        return JumpSampler(whole(denoiser.times).tolist())

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return self.chain(denoiser).schedule(denoiser, steps)

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
        return self.chain(denoiser).sample(denoiser, draws, condition, steps, dtype)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The chain, stopped at a random step that all ranks share."""
        return self.chain(denoiser).rollout(denoiser, draws, condition, dtype, noise)
