"""What a score distillation asks: the student's samples under noise, and what teacher and critic see in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.conditions import Condition, Guidance, where
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import GuidedPrediction
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.times import Chain, TimeLaw


@dataclass(frozen=True)
class ScoreInputs:
    """Where scores are compared.

    Attributes:
        rollout: The student's samples.
        x_t: These under noise, (B, ...).
        t: Their times on the student's process, (B,).
        noise: What was added, standard normal, (B, ...).
    """

    rollout: Rollout
    x_t: Tensor
    t: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Comparison:
    """What teacher and critic see in the same noisy samples.

    Attributes:
        real: The teacher's prediction, guided; those with and without the condition are in there too.
        fake: The critic's.
    """

    real: GuidedPrediction
    fake: GuidedPrediction


@dataclass(frozen=True)
class Renoise:
    """Noise on the student's samples: a law says how much, and the Markov kernel of the process leads there.

    From clean samples that is ``add_noise``. A student that stopped at a noisy anchor x_s is noised from there on,
    by q(x_t | x_s).

    Args:
        law: Law of the noise levels.
    """

    law: TimeLaw

    def __call__(self, process: Process, rollout: Rollout, draws: Draws, update: int = 0) -> ScoreInputs:
        """The samples at drawn levels of ``process``, after ``update`` student updates."""
        chain = Chain(rollout.t, rollout.t_anchor, rollout.step, update)
        t = torch.maximum(self.law.given(chain).sample(draws, process), rollout.t_anchor)  # noise is only added
        noise = draws.normal("noise", rollout.x0.shape[1:], rollout.x0.dtype)
        return ScoreInputs(rollout, process.renoise(rollout.anchor, rollout.t_anchor, t, noise), t, noise)


def critic_condition(
    critic: Denoiser, condition: Condition, guidance: Guidance, draws: Draws, role: str = "critic"
) -> Condition:
    """The condition with some samples' dropped, for the training of the critic called ``role``."""
    if guidance.condition_dropout == 0.0 or not condition:
        return condition
    keep = draws.uniform(f"{role}/dropout") >= guidance.condition_dropout
    return where(keep, condition, critic.null_condition(condition))


@torch.no_grad()
def health(rollout: Rollout, real: Prediction, fake: Prediction) -> dict[str, Tensor]:
    """The gap between critic and teacher and the spread of the samples (a collapse alarm), by name in the log."""
    return {
        "health/score_gap": (fake.x0 - real.x0).abs().mean(),
        "health/teacher_gap": (rollout.x0 - real.x0).abs().mean(),
        "health/sample_std": rollout.x0.std(),
    }
