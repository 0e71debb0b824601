"""Distillation++: the teacher corrects what the student predicts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.borrowed import WithTeacher
from fastgen.processes import Prediction
from fastgen.sampling.samplers.assisted.base import Asking, AssistedSampler


@dataclass(frozen=True)
class DistillationPlusPlus(AssistedSampler):
    """Distillation++ (Park et al. 2025, arXiv 2412.08871): the teacher corrects what the student predicts.

    At early calls the student's x0 is noised again to a lower level s, the guided teacher says x0 there, and a share of
    that is mixed in: ``x0 <- (1 - share) x0 + share x0_teacher(s)``; then the student's own sampler goes on. Read in a
    note: the share and how far s lies below are not verified.

    Args:
        sampler: The student's own.
        share: Of the teacher's x0, in [0, 1].
        guided_calls: How many first calls are corrected; each costs a call of the teacher.
        back: How far s lies below the call's time, in the position of the levels (see ``UniformTime``).
    """

    share: float = 0.5
    guided_calls: int = 1
    back: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fraction(self, share=self.share, back=self.back)
        checks.whole(self, 0, guided_calls=self.guided_calls)

    def evaluations(self, steps: int | None = None) -> int:
        calls = steps or self.trained_steps()
        return calls + min(self.guided_calls, calls)

    def said(self, denoiser: WithTeacher, x_t: Tensor, number: int, times: list[float], part: Asking) -> Prediction:
        own = self.students(denoiser, x_t, number, times, part)
        if number >= self.guided_calls:
            return own
        process = denoiser.process
        s = process.position((process.fraction(own.t) - self.back).clamp(min=0.02))
        noise = part.draws.normal(f"again{number}", x_t.shape[1:], part.dtype)
        other = denoiser.ask_teacher(process.add_noise(own.x0, noise, s), s, part.condition)
        x0 = (1.0 - self.share) * own.x0 + self.share * other.x0
        return Prediction(process, own.x_t, own.t, x0, "x0")
