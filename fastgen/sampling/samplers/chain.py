"""ChainSampler: predict, move to the next time, repeat; and the times of the calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.samplers.base import Sampler, call

Level = float | Literal["max"]
"""A noise level sigma / alpha, or the highest that the networks of a process know."""


def first_time(process: Process, level: Level) -> float:
    """The time of a noise level, at most ``t_max``."""
    if isinstance(level, str):
        return process.t_max
    return float(process.time(torch.tensor(level, dtype=torch.float64, device="cpu")).clamp(max=process.t_max))


@dataclass(frozen=True)
class ChainSampler(Sampler, ABC):
    """Calls at a list of times; a subclass says how it gets from one to the next.

    Args:
        times: Times of the student's calls, decreasing, in the units of its process, e.g. 999, 749, 499, 249 for DMD2
            with four steps; ``grid`` is the process's own grid of ``steps`` times, down from ``level``.
        level: Noise level sigma / alpha of the first call on the grid, for any process (SiD calls at 2.5); ``max`` is
            that of ``t_max``.
        steps: Number of calls on the grid; a list of times has its own.
    """

    times: Sequence[float] | Literal["grid"] = "grid"
    level: float | Literal["max"] = "max"
    steps: int = 1

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        if not isinstance(self.level, str):
            checks.positive(self, level=self.level)
        if isinstance(self.times, str):
            return
        checks.not_empty(self, times=self.times)
        checks.not_negative(self, times=self.times)
        name = type(self).__name__
        if self.level != "max":
            raise UserError(f"{name} takes times or a level, not both; leave one out.")
        if any(a <= b for a, b in pairwise(self.times)):
            raise UserError(f"{name}: student times must be a decreasing list, got {list(self.times)}.")
        if self.steps not in (type(self).steps, len(self.times)):
            raise UserError(f"{name} takes times or steps, not both; leave out steps, here {self.steps}.")

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        """The times of ``steps`` calls: the trained list if its length fits, else the process's grid from its start.

        Raises:
            UserError: If the trained list has times at which networks of the process are not called.
        """
        process, count = denoiser.process, steps or self.trained_steps()
        if isinstance(self.times, str):
            first = first_time(process, self.level)
        else:
            self.refuse_times_outside(process)
            if count == len(self.times):
                return list(self.times)
            first = self.times[0]
        return [first] if count == 1 else process.student_grid(count, first)

    def refuse_times_outside(self, process: Process) -> None:
        """Raise a ``UserError`` for times at which networks of the process are not called."""
        if not process.t_clean < self.times[-1] <= self.times[0] <= process.t_max:  # type: ignore[operator]
            raise UserError(
                f"The student is to be called at {list(self.times)}, but its process is called above "
                f"{process.t_clean:g} and up to {process.t_max:g}; change sampler.times, or give a student on the "
                "process that they belong to."
            )

    def trained_steps(self) -> int:
        return self.steps if isinstance(self.times, str) else len(self.times)

    @abstractmethod
    def destination(self, process: Process, following: float) -> float:
        """The time that a flow map is told to jump to, where the next call is at ``following``."""

    @abstractmethod
    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        """The state (B, ...) at the next time ``t`` (B,), by move ``number`` = 1, 2, ...; noise is of ``dtype``."""

    def calls(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        times: Sequence[float],
        dtype: torch.dtype,
        noise: Tensor | None = None,
        gradient_calls: int = 1,
    ) -> Iterator[Prediction]:
        """Call the student at every time, from noise (B, ...) that is drawn or given.

        The last ``gradient_calls`` calls and the moves between them record a graph if gradients are enabled; the last
        call predicts x0.
        """
        process, enabled = denoiser.process, torch.is_grad_enabled()
        t = torch.full((len(draws),), times[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, dtype) if noise is None else noise, t)
        for number, following in enumerate(times[1:], 1):
            with torch.set_grad_enabled(enabled and number > len(times) - gradient_calls):
                prediction = call(denoiser, x_t, t, condition, self.destination(process, following))
                t = torch.full_like(t, following)
                x_t = self.move(prediction, t, draws, number, dtype)
            yield prediction
        yield call(denoiser, x_t, t, condition, process.t_clean)

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        *_, last = self.calls(denoiser, draws, condition, self.schedule(denoiser, steps), dtype)
        return last.x0
