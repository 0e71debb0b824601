"""Samplers that ask the teacher for some of the calls; nothing is trained for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithTeacher
from fastgen.errors import UserError
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import Sampler, call
from fastgen.sampling.samplers.chain import ChainSampler
from fastgen.sampling.samplers.renoise import RenoiseSampler


@dataclass(frozen=True)
class AssistedSampler(Sampler, ABC):
    """The chain of another sampler, in which the teacher has a say; give it in the config that samples or evaluates.

    In training the chain is the student's alone. The teacher is guided by the method's ``solver.guidance``.
    diffusers' schedulers ask one network, so an export is refused.

    Args:
        sampler: The student's own.
    """

    asks_teacher: ClassVar[bool] = True
    sampler: ChainSampler = RenoiseSampler(steps=4)

    def __post_init__(self) -> None:
        checks.kind(self, ChainSampler, sampler=self.sampler)

    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        return self.sampler.schedule(denoiser, steps)

    def trained_steps(self) -> int:
        return self.sampler.trained_steps()

    @abstractmethod
    def said(self, denoiser: WithTeacher, x_t: Tensor, number: int, times: list[float], part: Asking) -> Prediction:
        """What stands for the prediction of call ``number``."""

    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """As the inner sampler, with other predictions.

        Raises:
            UserError: If there is no teacher.
        """
        if not isinstance(denoiser, WithTeacher):
            raise UserError(
                f"{type(self).__name__} asks the teacher beside the student, and there is none; give "
                "model.init_args.teacher."
            )
        *_, last = self.predictions(denoiser, Asking(draws, condition, dtype), self.schedule(denoiser, steps))
        return last.x0

    def predictions(self, denoiser: WithTeacher, part: Asking, times: list[float]) -> Iterator[Prediction]:
        """One after the other."""
        process, draws = denoiser.process, part.draws
        t = torch.full((len(draws),), times[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", denoiser.sample_shape, part.dtype), t)
        for number in range(len(times)):
            prediction = self.said(denoiser, x_t, number, times, part)
            yield prediction
            if number + 1 < len(times):
                s = torch.full_like(t, times[number + 1])
                x_t = self.sampler.move(prediction, s, draws, number + 1, part.dtype)

    def students(self, denoiser: WithTeacher, x_t: Tensor, number: int, times: list[float], part: Asking) -> Prediction:
        """The student's prediction of a call."""
        process = denoiser.process
        end = process.t_clean
        if number + 1 < len(times):
            end = self.sampler.destination(process, times[number + 1])
        t = torch.full((len(x_t),), times[number], dtype=torch.float64, device=x_t.device)
        return call(denoiser.student, x_t, t, part.condition, end)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        return self.sampler.rollout(denoiser, draws, condition, dtype, noise)


@dataclass(frozen=True)
class Asking:
    """What the calls of one batch have in common.

    Attributes:
        draws: Random numbers of the samples.
        condition: What is asked for.
        dtype: Of the noise.
    """

    draws: Draws
    condition: Condition
    dtype: torch.dtype
