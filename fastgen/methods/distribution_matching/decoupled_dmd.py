"""Decoupled DMD."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.guided import GuidedPrediction, guided
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.distribution_matching import mean_absolute_gap, over_gap, pseudo_loss
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import ScoreInputs
from fastgen.times import TimeLaw, WithinChain


class DecoupledDMD(DMD2):
    """Decoupled DMD: guidance as the spear, matching as the shield (Liu et al. 2025, arXiv 2511.22677).

    A guided DMD gradient is the sum of two: matching, ``mu_fake - mu_cond``, and guidance,
    ``-(w - 1) (mu_cond - mu_uncond)``. Here each has noise levels and a noise of its own, on the same samples. Matching
    sees all levels; guidance only levels cleaner than the student's input, where it can no longer change what has been
    decided. ``w`` is ``guidance.teacher``; the guidance term has no fixed point, so a larger ``w``, learning rate or
    duration needs a stronger critic. The paper's other shield, on the statistics of images, is the extra
    ``StatisticsShield``.

    Both terms are divided by ``mean |x - mu_cond|`` of the matching term's call, so that at one level with one noise
    they are guided DMD; if coupled, by the gap of the guided prediction, which is exactly DMD2. The paper states no
    normaliser (``none``), and its experiments on SDXL keep DMD2's; the code of CDM (arXiv 2605.06376) divides each term
    by its own gap, at least 0.1 (``per_term`` with ``floor: 0.1``).

    Args:
        guidance_time: Law of the noise levels of the guidance term: uniform below the student's input.
        coupled: Both terms at the same level, with the same noise.
        normaliser: What the terms are divided by: one gap for both (``shared``), ``per_term``, or ``none``.
        floor: Least gap.
        matching_weight: Factor of the matching term.
        guidance_weight: Factor of the guidance term.
        guidance: Guidance scales; the paper's w is large, as for the teacher itself.
    """

    def __init__(
        self,
        guidance_time: TimeLaw = WithinChain(low=0.0, high="student"),
        coupled: bool = False,
        normaliser: Literal["none", "shared", "per_term"] = "shared",
        floor: float = 0.0,
        matching_weight: float = 1.0,
        guidance_weight: float = 1.0,
        guidance: Guidance = Guidance(teacher=4.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, floor=floor, matching_weight=matching_weight, guidance_weight=guidance_weight)
        super().__init__(
            guidance=guidance, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
        if guidance.teacher == 0.0:
            raise UserError("DecoupledDMD guides towards the condition; set guidance.teacher to 1 (off) or above.")
        self.guidance_time = guidance_time
        self.coupled = coupled
        self.normaliser = normaliser
        self.floor = floor
        self.matching_weight = matching_weight
        self.guidance_weight = guidance_weight

    def build_roles(self) -> None:
        super().build_roles()
        if self.guidance.teacher != 1.0 and self.teacher.guided_by_input:
            raise UserError(
                f"{type(self).__name__} asks its teacher with and without the condition, but "
                f"{type(self.teacher).__name__} is guided by an input; set guidance.teacher to 1, or take another."
            )

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        """Matching alone asks the teacher for nothing but its conditional prediction."""
        if self.coupled:
            return super().teacher_scores(part, inputs)
        return guided(self.seen(self.teacher), inputs.x_t, inputs.t, inputs.rollout.condition, 1.0)

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        rollout, found = self.score_inputs(part).rollout, self.comparison(part)
        real, fake, x, w = found.real, found.fake, rollout.x0, self.guidance.teacher
        gap = self.gap(x, real.x0)
        losses = {"match": self.matching_weight * pseudo_loss(x, over_gap(fake.x0 - real.conditional.x0, gap))}
        if w != 1.0:
            apart = real if self.coupled else self.guidance_call(part, rollout)
            assert apart.cond is not None and apart.uncond is not None  # refused when roles are built
            if self.normaliser == "per_term" and not self.coupled:
                gap = self.gap(x, apart.cond.x0)
            pull = over_gap((1.0 - w) * (apart.cond.x0 - apart.uncond.x0), gap)
            losses["guidance"] = self.guidance_weight * pseudo_loss(x, pull)
        return losses

    def gap(self, x: Tensor, reference: Tensor) -> Tensor:
        """What a direction is divided by, (B, 1, ...)."""
        found = mean_absolute_gap(x, reference)
        return torch.ones_like(found) if self.normaliser == "none" else found.clamp(min=self.floor)

    @torch.no_grad()
    def guidance_call(self, part: MicroBatch, rollout: Rollout) -> GuidedPrediction:
        """The teacher with and without condition, at the guidance term's own level."""
        draws = part.draws.scoped("student/guidance")
        inputs = self.renoise(self.guidance_time)(self.student.process, rollout, draws)
        return guided(self.seen(self.teacher), inputs.x_t, inputs.t, rollout.condition, self.guidance.teacher)
