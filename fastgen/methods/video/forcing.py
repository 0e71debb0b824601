"""Diffusion forcing and teacher forcing: how many-step causal networks learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.teachers.teacher import TeacherTraining
from fastgen.objectives.score_matching import BellWeight, DenoisingLoss
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.sampling.clips.inputs import chunk_ranges, chunk_times, streamed_samples
from fastgen.times import FlowTime, TimeLaw


class DiffusionForcing(TeacherTraining):
    """Diffusion Forcing (Chen et al. 2024, arXiv 2407.01392) of causal networks, chunk by chunk.

    Every chunk has a noise level of its own and sees earlier chunks as noisy as they are. With one chunk it is
    :class:`TeacherTraining`. Samples are made chunk by chunk by the solver, each given the clean ones before it. It is
    stage one of Live Avatar (arXiv 2512.04677) and an option of Causal Forcing's (arXiv 2602.02214).

    Args:
        student: Builds the network, a causal one.
        objective: The loss: of the velocity, with the bell-shaped weight of Wan's trainers.
        time: Law of each chunk's noise level: uniform at shift 5.
        cache: What samples remember of earlier chunks.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser],
        objective: DenoisingLoss = DenoisingLoss("velocity", BellWeight()),
        time: TimeLaw = FlowTime(low=0.001, high=1.0, shift=5.0),
        cache: CachePolicy = FullCache(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, objective=objective, time=time, student_optimizer=student_optimizer, **kwargs)
        self.cache = cache

    def noised(self, part: MicroBatch) -> tuple[Process, Tensor, Tensor, Tensor, Condition]:
        process, x_t, t, noise, condition = super().noised(part)
        network = causal(self.student)
        if len(chunk_ranges(network)) > 1:
            assert part.x0 is not None  # said above
            t = network.per_frame(chunk_times(network, self.time, part.draws.scoped("student")))
            x_t = process.add_noise(part.x0, noise, t)
        return process, x_t, t, noise, condition

    def generate(self, denoiser: Denoiser, draws: Draws, condition: Condition, steps: int | None) -> Tensor:
        noise = draws.normal("noise", denoiser.sample_shape)
        return streamed_samples(self.solver, denoiser, noise, condition, steps, self.cache, draws)


class CleanContext(Distiller, ABC):
    """A method whose networks see, of earlier chunks, the real clip: ``condition["clean"]``."""

    def parts(self, scope: str, batch: Mapping[str, Any], number: int, pieces: int = 1) -> list[MicroBatch]:
        parts = super().parts(scope, batch, number, pieces)
        for part in parts:
            if part.x0 is None:
                raise UserError(
                    f"{type(self).__name__} lets chunks see real clips; the data module gives none ('x0' is missing)."
                )
            part.condition = {**part.condition, "clean": self.context(part)}
        return parts

    @abstractmethod
    def context(self, part: MicroBatch) -> Tensor:
        """What later chunks see of the real clips ``part.x0``, (B, ...)."""


def real_clips(part: MicroBatch) -> Tensor:
    """The clips of a batch that has some."""
    assert part.x0 is not None  # CleanContext.parts
    return part.x0


class TeacherForcing(CleanContext, DiffusionForcing):
    """Teacher forcing of causal networks: every chunk sees the real chunks before it (Causal Forcing, 2602.02214).

    Noisy and clean copies of a clip go through the network together. With one chunk it is :class:`TeacherTraining`.

    Args:
        context_noise: Standard deviation of noise on what is seen; the published option of slight noise has no number.
    """

    def __init__(self, student: Callable[[], Denoiser], context_noise: float = 0.0, **kwargs: Any) -> None:
        checks.not_negative(self, context_noise=context_noise)
        super().__init__(student=student, **kwargs)
        self.context_noise = context_noise

    def context(self, part: MicroBatch) -> Tensor:
        clean = real_clips(part)
        if self.context_noise == 0.0:
            return clean
        return clean + self.context_noise * part.draws.normal("context", clean.shape[1:], clean.dtype)
