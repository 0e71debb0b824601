"""Adversarial distribution matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.score_pair_gan import ScorePairGAN
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import TimeLaw, UniformTime


class ADM(ScoreDistiller):
    """Adversarial Distribution Matching (Lu et al. 2025, arXiv 2507.18569; no code), the second stage of DMDX.

    The critic follows the student's law as in DMD2, but no divergence is chosen: a discriminator learns what tells one
    step of the teacher from one of the critic, and the student removes it. With the hinge loss that bounds the total
    variation, whose gradient also reaches modes that a reverse Kullback-Leibler divergence gives up. See
    :class:`~fastgen.extras.score_pair_gan.ScorePairGAN`. DMDX, for one call, begins with :class:`~fastgen.methods.ADP`
    and goes on with this method from its checkpoint (``--init_from``).

    Not verified (from a third-party summary): the learning rates, the layers, the loss of the student being
    ``-mean D`` of the critic's point, and how often the critic learns (1, 4 and 8 were compared).

    Args:
        step: Length of the step that is judged, as a share of the levels that networks are trained at.
        layers: Module paths of the teacher's features, a head each; ``bottleneck`` is where the network is narrowest.
        width: Channels of the heads; ``features`` for as many as the features have.
        sampler: How the student generates.
        critic_time: Law of the noise levels at which the critic learns: all alike.
        schedule: Turns of critic and student; the discriminator's follows the critic's.
        student_optimizer: Builds the student's optimizer.
        critic_optimizer: Builds the critic's optimizer.
        discriminator_optimizer: Builds the discriminator's optimizer.
        discriminator_lr_scheduler: Builds the discriminator's learning-rate schedule.
        extras: Further loss terms, beside the discriminator that ADM is.
    """

    def __init__(
        self,
        step: float = 1.0 / 64.0,
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        width: int | Literal["features"] = "features",
        sampler: Sampler = RenoiseSampler(),
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=True, reuse_rollout=False),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6, beta1=0.0),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, beta1=0.0),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        gan = ScorePairGAN(
            step=step,
            layer=layers if isinstance(layers, str) else list(layers),
            width=width,
            optimizer=discriminator_optimizer,
        )
        super().__init__(
            sampler=sampler,
            critic_time=critic_time,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            extras=[gan, *extras],
            **kwargs,
        )
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Nothing of its own: the discriminator's verdict is an extra's."""
        return {}
