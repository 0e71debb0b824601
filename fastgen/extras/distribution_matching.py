"""Distribution matching: a score term with its own critic, beside the loss of any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.adapters import Adapter
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.warped import seen_on
from fastgen.errors import UserError
from fastgen.extras.base import Extra
from fastgen.objectives.distribution_matching import dmd_gradient, pseudo_loss
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.optimizers import BetasAdamW
from fastgen.run_facts import RunFacts, idle_guidance
from fastgen.sampling.guided import guided
from fastgen.sampling.scores import critic_condition, health, level_and_noise, scores
from fastgen.sampling.students import Rollout, StudentSampler
from fastgen.times import LogNormalLevel, TimeLaw, UniformTime

if TYPE_CHECKING:
    from fastgen.methods.base import Distiller
    from fastgen.methods.batch import MicroBatch

ROLE = "critic"


class DistributionMatching(Extra):
    """The reverse divergence of DMD (Yin et al. 2023, arXiv 2311.18828) as a regulariser of another method.

    ``weight * 0.5 mean (x - sg[x - g])^2``, ``g = (mu_fake - mu_real) / mean |x - mu_real|``, on samples x that the
    student makes for this term alone. The critic is a role of its own, ``critic``, and has its own iterations: after
    each one of the method's it learns in the next ``critic_updates``, on fresh samples.

    rCM (Zheng et al. 2025, arXiv 2510.08431; github.com/NVlabs/rcm) is sCM with this term. Its code adds
    ``100 sum |F - target|^2`` and ``sum |x - target|^2`` per sample; beside SCM's mean that is the weight 2 / 100.

    Samples and their levels are left in the batch's memory for other extras (GAN, Reward) that stand after this one,
    unless the method leaves its own.

    Args:
        weight: Factor of the student's term.
        start: Student update from which the term is active and the critic learns; rCM waits for sCM's warm-up.
        critic: Builds the critic (fake score), or an adapter to put on the frozen teacher; default a copy of the
            teacher.
        critic_optimizer: Builds the critic's optimizer; default rCM's at 1.3B.
        critic_updates: Iterations of the critic for each of the method's; rCM: 4, for 14B 9.
        sampler: How the student generates for this term; default as the method's samples. rCM: ``AnytimeSampler``.
        renoise_time: Law of the noise levels at which the scores are compared; default uniform in [0.02, 0.98].
        critic_time: Law of the noise levels at which the critic learns; default EDM's log-normal.
        critic_objective: The critic's loss; default EDM's.
        guidance: Guidance scales of teacher and critic.
    """

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        critic: Callable[[], Denoiser] | Adapter | None = None,
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        critic_updates: int = 4,
        sampler: StudentSampler | None = None,
        renoise_time: TimeLaw | None = None,
        critic_time: TimeLaw | None = None,
        critic_objective: DenoisingLoss | None = None,
        guidance: Guidance = Guidance(),
    ) -> None:
        checks.whole(self, critic_updates=critic_updates)
        super().__init__(weight, start)
        self.factory = critic
        self.optimizer = critic_optimizer
        self.critic_updates = critic_updates
        self.sampler = sampler
        self.renoise_time = renoise_time or UniformTime(0.02, 0.98)
        self.critic_time = critic_time or LogNormalLevel()
        self.critic_objective = critic_objective or DenoisingLoss()
        self.guidance = guidance

    # ------------------------------------------------------------------ the critic's role

    def build(self, method: Distiller) -> None:
        if method.teacher is None:
            raise UserError("DistributionMatching compares with a teacher; give model.init_args.teacher.")
        method.factories.setdefault(ROLE, self.factory)
        self.critic = method.build_role(ROLE)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        yield from idle_guidance(run, self.guidance, self.critic, self.critic)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {ROLE: [self.critic]}

    def optimizers(self) -> dict[str, OptimizerCallable]:
        return {ROLE: self.optimizer}

    def turns(self, turns: tuple[str, ...], iteration: int) -> tuple[str, ...]:
        return (ROLE,) if iteration % (self.critic_updates + 1) else turns

    # ------------------------------------------------------------------ losses

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role == "student":
            return self.student_losses(method, part)
        return self.critic_losses(method, part) if role == ROLE else {}

    def rollout(self, method: Distiller, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """Student samples for the turn of ``role``; only the student's own turn records a graph."""
        draws = part.draws.scoped(f"matching/{role}/rollout")
        with torch.set_grad_enabled(role == "student" and torch.is_grad_enabled()):
            told, sampler = method.told(condition, draws), self.sampler or method.sampler
            rollout = sampler.rollout(method.student, draws, told, method.noise_dtype())
        part.memory.setdefault(role, rollout)
        return rollout

    def renoised(
        self, method: Distiller, part: MicroBatch, scope: str, rollout: Rollout, law: TimeLaw
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The rollout at a drawn level: (x_t, t, noise)."""
        process = method.student.process
        t, noise = level_and_noise(process, rollout, law, part.draws.scoped(f"matching/{scope}"))
        return process.add_noise(rollout.x0, noise, t), t, noise

    def student_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        """Rollout, re-noise, compare."""
        assert method.teacher is not None  # build
        rollout = self.rollout(method, part, "student", part.condition)
        x_t, t, _ = self.renoised(method, part, "student/renoise", rollout, self.renoise_time)
        part.memory.setdefault("compared", (x_t, t))
        teacher, critic = (seen_on(network, method.student.process) for network in (method.teacher, self.critic))
        with torch.no_grad():
            real, fake = scores(teacher, critic, x_t, t, part.condition, self.guidance)
        for name, value in health(rollout, real, fake).items():
            method.record(name, value)
        return {"match": self.weight * pseudo_loss(rollout.x0, dmd_gradient(rollout.x0, real.x0, fake.x0))}

    def critic_losses(self, method: Distiller, part: MicroBatch) -> dict[str, Tensor]:
        """Denoise the student's samples."""
        condition = critic_condition(self.critic, part.condition, self.guidance, part.draws)
        rollout = self.rollout(method, part, ROLE, condition)
        x_t, t, noise = self.renoised(method, part, ROLE, rollout, self.critic_time)
        critic = seen_on(self.critic, method.student.process)
        prediction = guided(critic, x_t, t, condition, self.guidance.critic_training)
        return {"denoising": self.critic_objective(prediction, rollout.x0, noise)}
