"""BaseFirst: the base model makes the first call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.borrowed import WithTeacher
from fastgen.processes import Prediction
from fastgen.sampling.samplers.assisted.base import Asking, AssistedSampler


@dataclass(frozen=True)
class BaseFirst(AssistedSampler):
    """Diversity of the base model at nearly the student's cost: it makes the first call, the student the others.

    Gandikota & Bau 2025, Distilling Diversity and Control in Diffusion Models, arXiv 2503.10637; github.com/
    rohitgandikota/distillation (guidance 7 and one call of the base model on SDXL). The first call of many-step models
    decides what a picture shows, and distilled models have lost part of that choice.

    Args:
        sampler: The student's own.
        base_calls: Calls of the teacher, at the student's own times.
    """

    base_calls: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, 0, base_calls=self.base_calls)

    def said(self, denoiser: WithTeacher, x_t: Tensor, number: int, times: list[float], part: Asking) -> Prediction:
        if number >= self.base_calls:
            return self.students(denoiser, x_t, number, times, part)
        t = torch.full((len(x_t),), times[number], dtype=torch.float64, device=x_t.device)
        return denoiser.ask_teacher(x_t, t, part.condition)
