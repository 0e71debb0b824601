"""What a score distillation asks: the student's samples under noise, and what teacher and critic see in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.conditions import Condition, Guidance, where
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import GuidedPrediction
from fastgen.errors import UserError
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
        update: Student updates so far.
        times: The times of the student's calls.
    """

    law: TimeLaw
    update: int = 0
    times: Sequence[float] = ()

    def __call__(self, process: Process, rollout: Rollout, draws: Draws) -> ScoreInputs:
        """The samples at drawn levels of ``process``."""
        t = torch.maximum(self.levels(process, rollout, draws), rollout.t_anchor)  # noise is only added
        noise = draws.normal("noise", rollout.x0.shape[1:], rollout.x0.dtype)
        return ScoreInputs(rollout, process.renoise(rollout.anchor, rollout.t_anchor, t, noise), t, noise)

    def levels(self, process: Process, rollout: Rollout, draws: Draws) -> Tensor:
        """The drawn times, (B,)."""
        chain = Chain(rollout.t, rollout.t_anchor, rollout.step, self.update, self.times)
        return self.law.given(chain).sample(draws, process)


@dataclass(frozen=True)
class AlongPrediction(Renoise):
    """The student's samples at drawn levels of its own straight path: its x0 with the noise that it predicted.

    On rectified flow that is the input moved along the student's own velocity (SD3.5-Flash, arXiv 2509.21318). No fresh
    noise is drawn, so the scores are compared where the student passes itself.
    """

    def __call__(self, process: Process, rollout: Rollout, draws: Draws) -> ScoreInputs:
        """The samples at drawn levels of ``process``; no gradient runs through the predicted noise.

        Raises:
            UserError: If the sampler does not tell its last call.
        """
        noise, t = last_call(rollout).detach().noise, self.levels(process, rollout, draws)
        return ScoreInputs(rollout, process.add_noise(rollout.x0, noise, t), t, noise)


def last_call(rollout: Rollout) -> Prediction:
    """The student's call that made ``rollout.x0``.

    Raises:
        UserError: If the sampler does not tell it.
    """
    if not rollout.trajectory:
        raise UserError(
            "The student's sampler does not tell its calls; take RenoiseSampler, JumpSampler or PhasedSampler."
        )
    return rollout.trajectory[-1]


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
    """How far critic, teacher and samples are apart, by name in the log."""
    return {
        "health/score_gap": (fake.x0 - real.x0).abs().mean(),
        "health/teacher_gap": (rollout.x0 - real.x0).abs().mean(),
    }
