"""Teacher training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, where
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.times import LogNormalLevel, TimeLaw


class TeacherTraining(Distiller):
    """Trains or fine-tunes a many-step denoiser.

    Denoising score matching (Karras et al. 2022, arXiv 2206.00364) or flow matching (Lipman et al. 2022, arXiv
    2210.02747), by the choice of ``objective`` and ``time``.
    The network in training is called the student here too, so that EMA, grids and checkpoints are the same.

    Args:
        student: Builds the network; with ``weights`` it is fine-tuned.
        objective: The loss: EDM's. Flow matching: target ``velocity``, weight ``UniformWeight``.
        time: Law of the noise levels: EDM's log-normal.
        condition_dropout: Probability of training on the null condition, which makes the teacher guidable.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser],
        objective: DenoisingLoss = DenoisingLoss(),
        time: TimeLaw = LogNormalLevel(),
        condition_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, condition_dropout=condition_dropout)
        super().__init__(student=student, **kwargs)
        self.objective = objective
        self.time = time
        self.condition_dropout = condition_dropout

    def noised(self, part: MicroBatch) -> tuple[Process, Tensor, Tensor, Tensor, Condition]:
        """Process, noised real samples (B, ...), their times (B,), the noise, and what the network is told.

        Raises:
            UserError: If there are no real samples.
        """
        if part.x0 is None:
            raise UserError("Training a teacher needs real samples; the data module gives none ('x0' is missing).")
        process, draws = self.student.process, part.draws.scoped("student")
        t = self.time.sample(draws, process)
        noise = draws.normal("noise", part.x0.shape[1:], part.x0.dtype)
        condition = part.condition
        if self.condition_dropout > 0 and condition:
            keep = draws.uniform("dropout") >= self.condition_dropout
            condition = where(keep, condition, self.student.null_condition(condition))
        return process, process.add_noise(part.x0, noise, t), t, noise, condition

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Denoise real samples."""
        _, x_t, t, noise, condition = self.noised(part)
        assert part.x0 is not None  # noised
        return {"denoising": self.objective(self.student(x_t, t, condition), part.x0, noise)}

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        raise UserError("Training a teacher makes no few-step samples that an extra could judge; leave extras out.")

    def generate(self, denoiser: Denoiser, draws: Draws, condition: Condition, steps: int | None) -> Tensor:
        """A teacher generates with the solver."""
        return self.solver.solve(denoiser, draws.normal("noise", denoiser.sample_shape), condition, steps, draws)

    def evaluations(self, role: str, steps: int | None = None) -> int:
        return self.solver.evaluations(steps or self.solver.steps)
