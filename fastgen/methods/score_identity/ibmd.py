"""Inverse bridge matching distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import SiDForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import TimeLaw, UniformTime


class IBMD(ScoreDistiller):
    """Inverse Bridge Matching Distillation (Gushchin et al. 2025, arXiv 2502.01362; github.com/ngushchin/IBMD).

    A bridge-matching teacher restores degraded samples x_T in many steps; the student does it in a few. In the inverse
    problem the teacher is the bridge matching of the student's own samples x:
    ``min_student max_critic E |mu_real(x_t) - x|^2 - |mu_fake(x_t) - x|^2`` with x_t on the bridge from x to x_T and
    gradients through both networks, which is twice the second-order form of SiD with alpha = 1/2. The critic learns
    ``|mu_fake(x_t) - x|^2``. Networks are :class:`~fastgen.denoisers.wrappers.bridge.Bridge` on any network, the data
    module is ``Degraded``; nothing but degraded samples is needed.

    A student of several calls alternates a prediction and a draw of the bridge between it and x_T, which is what
    ``RenoiseSampler`` does on this process.

    Differs from the code: the weight of levels is 1 (there it is a power of t where an option asks for it), networks
    see x_T through x_t alone, and the student's random input is the noise of the bridge where it begins.

    Args:
        sampler: How the student restores: one call at the degraded end; an earlier level mixes in more noise.
        renoise_time: Law of the times of the bridge at which predictions are compared.
        critic_time: Law of those at which the critic learns.
        critic_objective: The critic's loss: the plain squared error of x0, summed over a sample.
        schedule: Turns of critic and student; five critic updates per student update.
    """

    def __init__(
        self,
        sampler: Sampler = RenoiseSampler(),
        renoise_time: TimeLaw = UniformTime(0.0, 1.0),
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        critic_objective: DenoisingLoss = DenoisingLoss(weight=UniformWeight(), reduction="sum"),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-5),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-5),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=SiDForm(0.5),  # says that both networks are differentiated
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """How much closer to the samples the critic's predictions are than the teacher's."""
        x, found = self.score_inputs(part).rollout.x0, self.comparison(part)
        real, fake = ((mu - x).square().flatten(1).sum(1).mean() for mu in (found.real.x0, found.fake.x0))
        return {"match": real - fake}
