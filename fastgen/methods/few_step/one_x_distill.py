"""1.x-Distill."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.guided import GuidedPrediction, guided
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.few_step_forms import ColumnHuberForm
from fastgen.objectives.score_forms import ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Prediction
from fastgen.sampling.samplers import Sampler, TrajectorySampler
from fastgen.sampling.scores import ScoreInputs
from fastgen.shapes import expand
from fastgen.times import TimeLaw, WithinChain


class OneXDistill(ScoreDistiller):
    """1.x-Distill, stage one: few-step students whose teacher is guided below a noise level only.

    arXiv 2604.04018; github.com/THU-AccDiff/1.x_distill. As TDM the student is its own deterministic sampler and is
    judged within the segment of one of its steps. The teacher's guidance, which at high noise leads away from data and
    makes modes collapse, is left out where sigma / (alpha + sigma) is above ``guided_below``: 0.96 in the code, 0.94 in
    the text. The useful threshold depends on the shift of the teacher; measure where guidance moves the prediction away
    from real samples. Student: an elementwise pseudo-Huber distance whose normaliser leaves the last axis out, as the
    code does. Critic: the squared error of the velocity to the student's x0, as fast as the student, first.

    Stage two is adversarial: a two-step student against samples that a frozen four-step student made of the same noise.
    Write these with ``fastgen pairs --ckpt`` and train ``GDD`` with the data module ``Pairs`` (the code makes them
    online). Not here: its cache of blocks with a small network that compensates for it.

    Not verified: what the critic's velocity is measured to after a step that is not the last (here ``e - x0`` with the
    noise e that lies between x0 and x_t), and who is updated first.

    Args:
        guided_below: Flow time up to which the teacher is guided.
        form: How the two scores become the student's loss.
        sampler: How the student generates: four steps of the process's own grid.
        renoise_time: Law of the noise levels at which the scores are compared: uniform within the step's segment.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss.
        guidance: 7 for the teacher.
    """

    def __init__(
        self,
        guided_below: float = 0.96,
        form: ScoreForm = ColumnHuberForm(),
        sampler: Sampler = TrajectorySampler(),
        renoise_time: TimeLaw = WithinChain("anchor", "student"),
        critic_time: TimeLaw = WithinChain("anchor", "student"),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=7.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, decay=1e-4),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-5, decay=1e-4),
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, guided_below=guided_below)
        super().__init__(
            form=form,
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.guided_below = guided_below

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        """The teacher's prediction, guided where the noise is low enough."""
        condition = self.role_condition(part, "teacher", inputs.rollout.condition)
        alpha, sigma = self.student.process.coefficients(inputs.t)
        below = sigma <= self.guided_below * (alpha + sigma)

        def mix(cond: Prediction, uncond: Prediction, scale: float) -> Prediction:
            return cond.guided(uncond, torch.where(below, scale, 1.0))

        return guided(self.seen(self.teacher), inputs.x_t, inputs.t, condition, self.guidance.teacher, mix)

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        x0 = inputs.rollout.x0
        alpha, sigma = (expand(c, x0) for c in self.student.process.coefficients(inputs.t))
        return self.critic_objective(prediction, x0, (inputs.x_t - alpha * x0) / sigma)
