"""CorrectedSampler: DDIM steps with a learned scalar each (D-ODE solvers)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithNumbers
from fastgen.errors import UserError
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.corrections import difference
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler
from fastgen.sharding import whole


@dataclass(frozen=True)
class CorrectedSampler(Sampler):
    """``x_s = DDIM(x_t) + lambda_i d_i`` on the process's own grid, with the student's scalars lambda.

    Args:
        steps: Number of calls.
        form: What d is: differences of predicted ``noise`` (D-DDIM) or of predicted ``data`` (D-EDM).
    """

    steps: int = 5
    form: Literal["noise", "data"] = "data"

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return denoiser.process.solver_grid(steps or self.steps)

    def trained_steps(self) -> int:
        return self.steps

    def scalars(self, denoiser: Denoiser, steps: int) -> Tensor:
        """The student's scalars, one a call; zeros for another number of calls than it has.

        Raises:
            UserError: If it has none.
        """
        if not isinstance(denoiser, WithNumbers):
            raise UserError(
                f"CorrectedSampler calls a student with scalars, and {type(denoiser).__name__} has none; train it by "
                "DODE, or take JumpSampler."
            )
        known = whole(denoiser.numbers["scalars"]).detach()
        return known if len(known) == steps else torch.zeros(steps, dtype=known.dtype, device=known.device)

    def states(
        self, denoiser: Denoiser, noise: Tensor, condition: Condition, times: Sequence[Tensor], scalars: Tensor
    ) -> Iterator[tuple[Tensor, Tensor | None, Prediction]]:
        """After each step from standard normal ``noise`` (B, ...): the state, what its scalar multiplied, the call."""
        x, before = denoiser.process.start(noise, times[0]), None
        for (t, s), scalar in zip(pairwise(times), scalars, strict=True):
            prediction = denoiser(x, t, condition)
            moved, d = prediction.process.jump(prediction, s), difference(self.form, prediction, before, noise)
            x = moved if d is None else moved + scalar.to(d.dtype) * d
            before = prediction
            yield x, d, prediction

    def times(self, denoiser: Denoiser, noise: Tensor, steps: int | None) -> list[Tensor]:
        """Those of the calls and the clean end, (B,) each."""
        grid = [*self.schedule(denoiser, steps), denoiser.process.t_clean]
        return [noise.new_full((len(noise),), time, dtype=torch.float64) for time in grid]

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        noise = draws.normal("noise", denoiser.sample_shape, dtype)
        scalars = self.scalars(denoiser, steps or self.steps)
        *_, (x, _, _) = self.states(denoiser, noise, condition, self.times(denoiser, noise, steps), scalars)
        return x

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The whole chain."""
        first = draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise
        times = self.times(denoiser, first, None)
        chain = list(self.states(denoiser, first, condition, times, self.scalars(denoiser, self.steps)))
        x = chain[-1][0]
        return Rollout(x, condition, times[-2], self.steps - 1, x, times[-1], tuple(call for _, _, call in chain))
