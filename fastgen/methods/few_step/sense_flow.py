"""SenseFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable

from fastgen import checks
from fastgen.conditions import Condition, Guidance
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras.implicit_alignment import ImplicitAlignment
from fastgen.extras.intra_segment_guidance import IntraSegmentGuidance
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.noised_data import noised_data
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import RenoiseSampler, Sampler


class SenseFlow(DMD2):
    """SenseFlow: DMD2 for large flow models (Ge et al. 2025, arXiv 2506.00523; github.com/XingtongGe/SenseFlow).

    Three things are added to DMD2: the critic follows the student's weights (the extra ``ImplicitAlignment``), a step
    of the student is worth one of the teacher and one of its own (``IntraSegmentGuidance``), and a discriminator reads
    DINOv2's features of decoded samples, ``VisionGAN`` with ``objective: Hinge``, which needs weights and so stands in
    a config. In each iteration a coin decides whether rollouts are the student's own chain, stopped at a step that all
    share, or begin at real samples under noise, with a step for each.

    Defaults are SD3.5 medium's; FLUX.1: ``critic_updates: 5``, decay 0.97, guidance 1 and 8 in the extra. Both losses
    of the discriminator weigh each sample by ``(1 - sigma)^2`` of the student's input (``level_weight: FlowWeight``
    with ``signal_power: 2``; the code's file for SD3.5 squares another entry of the shifted table, a slip), and it is
    told the real image too (``reference``; how the code joins the two conditions was not verified).

    Args:
        data_share: Probability that an iteration begins at real samples.
        sampler: How the student generates: four calls, 999, 749, 499 and 249 of the shifted table.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: 4 for the teacher.
        schedule: Turns of critic and student: the critic in every iteration, the student in every tenth.
        extras: Further loss terms; ``published`` are an ``ImplicitAlignment`` of decay 0.98 and an
            ``IntraSegmentGuidance`` of weight 0.5.
    """

    def __init__(
        self,
        data_share: float = 0.5,
        sampler: Sampler = RenoiseSampler(steps=4),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=4.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=10, critic_first=False, reuse_rollout=True),
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6, decay=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6, decay=0.0),
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, data_share=data_share)
        super().__init__(
            sampler=sampler,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            extras=[ImplicitAlignment(0.98), IntraSegmentGuidance()] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.data_share = data_share

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """The student's own chain, or its call on noised data."""
        draws = part.draws.scoped(self.rollout_scope(role))
        if draws.shared_uniform("coin") >= self.data_share:
            return super().make_rollout(part, role, condition)
        if part.x0 is None:
            raise UserError(
                "SenseFlow begins some rollouts at real samples; the data module gives none ('x0' is missing). "
                "Give some, or set data_share to 0."
            )
        times, told = self.sampler.schedule(self.student), self.student_condition(condition, draws)
        made = noised_data(self.student, times, part.x0, draws, told, self.noise_dtype())
        return replace(made, condition=condition)
