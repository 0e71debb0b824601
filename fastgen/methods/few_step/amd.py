"""AMD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.distiller.groups import group_advantages
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.frozen import keep_frozen, rewards_of
from fastgen.extras.reward import RewardModel
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.distribution_matching import guidance_gradient, normalised, pseudo_loss
from fastgen.processes import Prediction
from fastgen.sampling.scores import ScoreInputs
from fastgen.shapes import pad_axes


class AMD(DMD2):
    """Adaptive matching distillation: a guided DMD gradient, weighed within groups by a reward (arXiv 2602.07345).

    Several samples of each condition are judged together. Where the teacher leads a sample to little reward, matching
    counts more and guidance less: ``beta (mu_fake - mu_cond) - alpha (w - 1) (mu_cond - mu_uncond)`` over DMD's gap of
    the guided prediction, ``alpha = 1 + s A``, ``beta = 1 - s A``; A is the reward among those of the sample's
    condition, over their spread, cut at 1. The critic looks closer at what falls behind: its error has the factor ``1 +
    s' max(0, -A)``. Without advantages it is guided DMD2.

    Not verified against a source: how A enters both (derived; the text bounds the weights by 1 +- s), s, s' and the
    size of a group. A group of few samples makes A a sign. A reward that is also the metric flatters the student.

    Args:
        reward: Builds the reward model, e.g. ``{class_path: DigitLogProbability}``.
        group: Samples of each condition; the batch of all ranks is a multiple of it.
        strength: s, below 1.
        sharpening: s'.
        guidance: Guidance scales; w of the paper is ``teacher``.
    """

    judge: RewardModel

    def __init__(
        self,
        reward: Callable[[], RewardModel],
        group: int = 4,
        strength: float = 0.5,
        sharpening: float = 0.5,
        guidance: Guidance = Guidance(teacher=4.0),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 2, group=group)
        checks.between(self, 0.0, 1.0, "[)", strength=strength)
        checks.not_negative(self, sharpening=sharpening)
        super().__init__(guidance=guidance, **kwargs)
        if guidance.teacher == 0.0:
            raise UserError("AMD guides towards the condition; set guidance.teacher to 1 (off) or above.")
        self.factory = reward
        self.samples_per_condition = group
        self.strength = strength
        self.sharpening = sharpening
        self.advantages: dict[int, Tensor] = {}
        self.critic_factor: Tensor | None = None

    def build_roles(self) -> None:
        super().build_roles()
        if self.guidance.teacher != 1.0 and self.teacher.guided_by_input:
            raise UserError(
                f"AMD asks its teacher with and without the condition, but {type(self.teacher).__name__} is guided by "
                "an input; take another teacher."
            )
        keep_frozen(self, "judge", self.factory)

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """Judge the samples of the whole batch."""
        rewards = []
        for part in parts:
            with torch.set_grad_enabled(len(parts) == 1 and torch.is_grad_enabled()):
                x0 = self.rollout(part, role).x0.detach()
            if len(parts) > 1 and role == "student":  # the graphs of all pieces at once would not fit
                part.forget_samples()
            rewards.append(rewards_of(self.judge, self.codec, x0, part.raw_condition))
        found = group_advantages(self, parts, rewards)
        self.advantages = {id(part): one.clamp(-1.0, 1.0) for part, one in zip(parts, found, strict=True)}
        self.record("health/reward", torch.cat(rewards).mean())

    def advantage(self, part: MicroBatch) -> Tensor:
        """(B,); 0 where nobody asked for it, as in validation."""
        zero = torch.zeros(len(part.draws), dtype=torch.float64, device=part.draws.device)
        return self.advantages.get(id(part), zero)

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        x, found = self.score_inputs(part).rollout.x0, self.comparison(part)
        cond, real, w = found.real.conditional, found.real.x0, self.guidance.teacher
        push = pad_axes(self.strength * self.advantage(part), x).to(x.dtype)
        losses = {"match": pseudo_loss(x, (1.0 - push) * normalised(found.fake.x0 - cond.x0, x, real))}
        if w != 1.0:
            assert found.real.uncond is not None  # refused when roles are built
            pull = guidance_gradient(x, cond.x0, found.real.uncond.x0, w, real)
            losses["guidance"] = pseudo_loss(x, (1.0 + push) * pull)
        return losses

    def denoising_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        self.critic_factor = 1.0 + self.sharpening * (-self.advantage(part)).clamp(min=0.0)
        return super().denoising_losses(part)

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        return self.critic_objective(prediction, inputs.rollout.x0, inputs.noise, self.critic_factor)
