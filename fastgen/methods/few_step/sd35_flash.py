"""SD3.5-Flash."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.sampling.scores import AlongPrediction, Renoise
from fastgen.times import StudentLevels, TimeLaw


class SD35Flash(DMD2):
    """SD3.5-Flash's distribution matching on rectified flow with shared timesteps (arXiv 2509.21318).

    The scores are compared on the student's own path: its x0 with the noise that it predicted itself, not with fresh
    noise, at one of the times at which it is called. On rectified flow that is the input moved along the student's own
    velocity, ``x_t' = x_t + (t' - t) v``. Gradients vary less so. The critic learns under fresh noise, at those times.
    Every t' is cleaner than the input: ``x_t' = (1 - t'/t) x0 + (t'/t) x_t``, so at t the scores would not see what the
    call made, and above it with the wrong sign. Training with such times diverged on the ring of
    ``sd35_flash_mixture``.

    Of the rest of the recipe trajectory guidance, its pre-training, is the extra ``FirstStepAnchor`` or ``KD``, and its
    discriminator ``GAN``. Not here: two copies fine-tuned on times above and below one half and merged 7:3.

    Not verified against a source (no code, and the weights of its losses are not in the text that could be read):
    which way t' may go, the critic's times, all weights and learning rates.

    Args:
        sampler: How the student generates: four Euler steps, rollouts stopped at a random one.
        renoise_time: Law of the noise levels at which the scores are compared: the student's own times below the
            input's, or half of it for the last call.
        critic_time: Law of the noise levels at which the critic learns: all of the student's times.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: Guidance scales; the pipeline of the teacher has 4.5.
    """

    def __init__(
        self,
        sampler: Sampler = JumpSampler(steps=4),
        renoise_time: TimeLaw = StudentLevels(),
        critic_time: TimeLaw = StudentLevels(noisier=True),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=4.5),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )

    def comparing(self) -> Renoise:
        usual = super().comparing()
        return AlongPrediction(usual.law, usual.update, usual.times)
