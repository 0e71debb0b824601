"""SDXS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.wrappers.features import tap
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import IKLForm
from fastgen.objectives.similarity import dissimilarity
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.times import TimeLaw, UniformTime


class SDXS(ScoreDistiller):
    """Small one-step students by feature matching and segmented score distillation (arXiv 2403.16627; IDKiro/sdxs).

    Song et al. 2024. The student is a smaller network (``student``). From a noise it makes an image, as the teacher's
    solver did, and both are compared by the structural similarity of features (FM):

    - for ``warmup`` updates by that alone;
    - then by the level at which the sample is noised again: up to ``threshold`` the scores of teacher and critic are
      compared (Diff-Instruct), above it FM acts, with a weight that falls to 0 in ``fade`` updates.

    Pairs come from files (``fastgen pairs``, data module ``Pairs``), or the teacher's solver makes them in every step.

    Differs from the paper, whose text could not be read (a summary was; the repository samples only): features are the
    frozen teacher's, at slightly noised images; the critic keeps the teacher's size. Not verified: layers, weights, the
    threshold, the length of the parts, the learning rates.

    Args:
        threshold: Level, as a share of those that networks are trained at, up to which scores act.
        warmup: Student updates with feature matching alone.
        fade: Student updates after these until feature matching is gone.
        matching: Factor of feature matching.
        layers: Module paths of the teacher's features; ``bottleneck`` is where the network is narrowest.
        level: Position of the noise level at which features are read.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_time: Law of the noise levels at which the critic learns.
        student_optimizer: Builds the student's optimizer.
        critic_optimizer: Builds the critic's optimizer.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        warmup: int = 5000,
        fade: int = 5000,
        matching: float = 1.0,
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        level: float = 0.1,
        renoise_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5),
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, threshold=threshold)
        checks.whole(self, 0, warmup=warmup)
        checks.whole(self, fade=fade)
        checks.positive(self, matching=matching)
        checks.between(self, 0.0, 1.0, "()", level=level)
        checks.not_empty(self, layers=layers)
        super().__init__(
            form=IKLForm(),
            renoise_time=renoise_time,
            critic_time=critic_time,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.threshold = threshold
        self.warmup = warmup
        self.fade = fade
        self.matching = matching
        self.layers = None if isinstance(layers, str) else list(layers)
        self.level = level

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        if role != "student":
            return super().make_rollout(part, role, condition)
        draws, (noise, _) = part.draws.scoped(self.rollout_scope(role)), self.pair(part)
        told = self.student_condition(condition, draws)
        made = self.rollout_sampler().rollout(self.student, draws, told, noise.dtype, noise)
        return replace(made, condition=condition)

    def fading(self) -> float:
        """The weight of feature matching above the threshold."""
        return max(0.0, 1.0 - max(0, self.student_updates - self.warmup) / self.fade)

    def scored(self, part: MicroBatch) -> Tensor:
        """Whose scores act, (B,)."""
        inputs = self.score_inputs(part)
        within = self.student.process.fraction(inputs.t) <= self.threshold
        return within & torch.full_like(within, self.student_updates >= self.warmup)

    def sample_weight(self, part: MicroBatch) -> Tensor:
        return self.scored(part).double()

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        losses = super().matching_losses(part)
        weight = self.matching * self.fading() * (~self.scored(part)).double()
        return losses | {"features": (weight.to(losses["match"].dtype) * self.apart(part)).mean()}

    def apart(self, part: MicroBatch) -> Tensor:
        """How far the student's features are from those of the teacher's image, (B,)."""
        process, found = self.student.process, []
        rollout, (_, target) = self.rollout(part, "student"), self.pair(part)
        draws = part.draws.scoped("student/features")
        noise = draws.normal("noise", target.shape[1:], target.dtype)
        t = process.position(torch.full((len(target),), self.level, dtype=torch.float64, device=target.device))
        layers = self.layers or [self.teacher.feature_path]
        for x in (rollout.x0, target):
            with tap(self.teacher.backbone, layers, "left out") as features:
                on_process(self.teacher, process)(process.add_noise(x, noise, t), t, rollout.condition)
            found.append(dict(features))
        return dissimilarity(*found)
