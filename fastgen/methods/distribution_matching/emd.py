"""EM distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import starmap
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import IKLForm
from fastgen.optimizers import BetasAdam
from fastgen.sampling.langevin import Drift, Langevin
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import ScoreInputs, health
from fastgen.shapes import expand
from fastgen.times import Chain, LogNormalLevel, TimeLaw


class EMD(ScoreDistiller):
    """EM Distillation: one call that covers the teacher's modes (Xie et al. 2024, arXiv 2405.16852; no code).

    The student's noisy samples ``x_t = alpha g(z) + sigma noise`` are a model with the latents z and noise. Its
    likelihood under the *teacher's* law is raised, which a missing mode lowers, by expectation maximisation:

    - E-step: from independent z and noise, Langevin steps towards the posterior of both at the teacher's x_t. With
      ``d = s_teacher(x_t) - s_critic(x_t)`` the noise is pushed by ``sigma d`` and z by ``alpha J^T d``;
    - M-step: ``mean_B sum -(sigma / alpha) sg[noise] . g(z)``, a regression of the sample on the corrected one.

    With one step and z at rest this is Diff-Instruct, times half the step. What the chain's noise adds to the product
    is subtracted as that of a reference chain (see :class:`~fastgen.sampling.langevin.Langevin`): without bias, and the
    loss has no gradient at all where critic and teacher agree.

    Differs from the paper, of which no text could be read: the reference chain is not its noise cancellation (that is
    ``cancel: injected``); a level counts sigma^2 / alpha^2 times its likelihood, so that all levels move samples alike.
    The step sizes are from memory and, like levels and learning rates, not verified.

    Args:
        corrector: The Langevin chain.
        renoise_time: Law of the noise levels of x_t.
        student_optimizer: Builds the student's optimizer.
        critic_optimizer: Builds the critic's optimizer.
    """

    def __init__(
        self,
        corrector: Langevin = Langevin(),
        renoise_time: TimeLaw = LogNormalLevel(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=IKLForm(),
            renoise_time=renoise_time,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        if self.sampler.trained_steps() != 1:
            raise UserError("EMD corrects the noise of a single call; give the sampler one step.")
        self.corrector = corrector

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        process, shape, dtype = self.student.process, self.student.sample_shape, self.noise_dtype()
        draws = part.draws.scoped(self.scope("student/renoise"))
        with torch.inference_mode(False):  # validation: z needs a gradient all the same
            condition = {name: value.clone() for name, value in part.condition.items()}
            told = self.student_condition(condition, draws)
            clean = torch.full((len(draws),), process.t_clean, dtype=torch.float64, device=draws.device)
            law = self.renoise_time.given(Chain(torch.full_like(clean, process.t_max), clean, 0, self.student_updates))
            t = law.sample(draws, process)
            latent, noise = (draws.normal(name, shape, dtype) for name in ("latent", "noise"))

            def generate(z: Tensor) -> Rollout:
                return replace(self.sampler.rollout(self.student, draws, told, dtype, z), condition=condition)

            kicks = self.corrector.kicks(draws, shape, dtype)
            products = self.corrector.products(latent, noise, kicks, self.drift(part, generate, t))
        loss = torch.zeros((), dtype=dtype, device=latent.device)
        for product in products:
            x = generate(product.latent.detach()).x0
            along = expand(process.ratio(t), x) * product.noise.detach()
            loss = loss - product.sign * (along * x).flatten(1).sum(1).mean()
        return {"match": loss}

    def drift(self, part: MicroBatch, generate: Callable[[Tensor], Rollout], t: Tensor) -> Drift:
        """How teacher and critic push the latent and the noise at times ``t`` (B,)."""
        process, asked = self.student.process, list[None]()

        def push(latent: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            z = latent.detach().requires_grad_()
            with torch.enable_grad():
                made = generate(z)
            ratio, rollout = expand(process.ratio(t), z), made.detach()
            inputs = ScoreInputs(rollout, process.add_noise(rollout.x0, noise, t), t, noise)
            with torch.no_grad():
                real, fake = self.teacher_scores(part, inputs), self.critic_scores(part, inputs)
            if not asked:
                asked.extend(starmap(self.record, health(rollout, real, fake).items()))
            along = (real.x0 - fake.x0) / ratio  # sigma times the scores' difference
            (to_latent,) = torch.autograd.grad(made.x0, z, (along / ratio).to(made.x0.dtype))
            return to_latent, along

        return push
