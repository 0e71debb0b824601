"""What a score distillation asks: the student's samples under noise, and what teacher and critic see in them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition, Guidance, where
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.guided import GuidedPrediction, guided
from fastgen.sampling.students import Rollout
from fastgen.times import TimeLaw


def level_and_noise(process: Process, rollout: Rollout, law: TimeLaw, draws: Draws) -> tuple[Tensor, Tensor]:
    """Where a rollout is re-noised to, (B,), and with what, (B, ...)."""
    t = law.given(rollout.t, rollout.t_anchor).sample(draws, process)
    return t, draws.normal("noise", rollout.x0.shape[1:], rollout.x0.dtype)


def scores(
    teacher: Denoiser, critic: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, guidance: Guidance
) -> tuple[GuidedPrediction, GuidedPrediction]:
    """Predictions of teacher and critic at ``x_t``, guided; with and without condition they are in there too."""
    return guided(teacher, x_t, t, condition, guidance.teacher), guided(critic, x_t, t, condition, guidance.critic)


def critic_condition(critic: Denoiser, condition: Condition, guidance: Guidance, draws: Draws) -> Condition:
    """The condition with some samples' dropped, for the critic's training."""
    if guidance.condition_dropout == 0.0 or not condition:
        return condition
    keep = draws.uniform("critic/dropout") >= guidance.condition_dropout
    return where(keep, condition, critic.null_condition(condition))


@torch.no_grad()
def health(rollout: Rollout, real: Prediction, fake: Prediction) -> dict[str, Tensor]:
    """The gap between critic and teacher and the spread of the samples (a collapse alarm), by name in the log."""
    return {
        "health/score_gap": (fake.x0 - real.x0).abs().mean(),
        "health/teacher_gap": (rollout.x0 - real.x0).abs().mean(),
        "health/sample_std": rollout.x0.std(),
    }
