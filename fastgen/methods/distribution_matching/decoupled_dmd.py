"""Decoupled DMD."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.denoisers.wrappers.guided import GuidedPrediction, guided
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.distribution_matching import guidance_gradient, normalised, pseudo_loss
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import Renoise, ScoreInputs
from fastgen.times import TimeLaw, WithinChain


class DecoupledDMD(DMD2):
    """Decoupled DMD: guidance as the spear, matching as the shield (Liu et al. 2025, arXiv 2511.22677).

    A guided DMD gradient is the sum of two: matching, ``mu_fake - mu_cond``, and guidance,
    ``-(w - 1) (mu_cond - mu_uncond)``. Here each has noise levels and a noise of its own, on the same samples. Matching
    sees all levels; guidance only levels cleaner than the student's input, where it can no longer change what has been
    decided. ``w`` is ``guidance.teacher``; the guidance term has no fixed point, so a larger ``w``, learning rate or
    duration needs a stronger critic.

    Each term is divided by ``mean |x - mu_cond|`` of its own call, as in the code of CDM (arXiv 2605.06376) but without
    its lower bound of 0.1; the paper's text leaves that open. If coupled, both are divided by the gap of the guided
    prediction, which is exactly DMD2.

    Args:
        guidance_time: Law of the noise levels of the guidance term: uniform below the student's input.
        coupled: Both terms at the same level, with the same noise.
        matching_weight: Factor of the matching term.
        guidance_weight: Factor of the guidance term.
        guidance: Guidance scales; the paper's w is large, as for the teacher itself.
    """

    def __init__(
        self,
        guidance_time: TimeLaw = WithinChain(low=0.0, high="student"),
        coupled: bool = False,
        matching_weight: float = 1.0,
        guidance_weight: float = 1.0,
        guidance: Guidance = Guidance(teacher=4.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, matching_weight=matching_weight, guidance_weight=guidance_weight)
        super().__init__(
            guidance=guidance, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
        if guidance.teacher == 0.0:
            raise UserError("DecoupledDMD guides towards the condition; set guidance.teacher to 1 (off) or above.")
        self.guidance_time = guidance_time
        self.coupled = coupled
        self.matching_weight = matching_weight
        self.guidance_weight = guidance_weight

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        """Matching alone asks the teacher for nothing but its conditional prediction."""
        if self.coupled:
            return super().teacher_scores(part, inputs)
        return guided(self.seen(self.teacher), inputs.x_t, inputs.t, inputs.rollout.condition, 1.0)

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        rollout, found = self.score_inputs(part).rollout, self.comparison(part)
        real, fake, x, w = found.real, found.fake, rollout.x0, self.guidance.teacher
        matching = normalised(fake.x0 - real.conditional.x0, x, real.x0)
        losses = {"match": self.matching_weight * pseudo_loss(x, matching)}
        if w != 1.0:
            apart = real if self.coupled else self.guidance_call(part, rollout)
            assert apart.cond is not None and apart.uncond is not None
            reference = apart.x0 if self.coupled else apart.cond.x0
            pull = guidance_gradient(x, apart.cond.x0, apart.uncond.x0, w, reference)
            losses["guidance"] = self.guidance_weight * pseudo_loss(x, pull)
        return losses

    @torch.no_grad()
    def guidance_call(self, part: MicroBatch, rollout: Rollout) -> GuidedPrediction:
        """The teacher with and without condition, at the guidance term's own level."""
        draws = part.draws.scoped("student/guidance")
        inputs = Renoise(self.guidance_time)(self.student.process, rollout, draws, self.student_updates)
        return guided(self.seen(self.teacher), inputs.x_t, inputs.t, rollout.condition, self.guidance.teacher)
