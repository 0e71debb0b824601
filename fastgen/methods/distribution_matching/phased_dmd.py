"""Phased DMD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.experts import Experts
from fastgen.denoisers.wrappers.on_process import same_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.stages import Staged
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.trajectory import sub_interval_truth
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Prediction
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import PhasedSampler
from fastgen.sampling.scores import ScoreInputs
from fastgen.times import TimeLaw, WithinChain


class PhasedDMD(Staged, DMD2):
    """Phased DMD: few-step students of one expert per phase (Fan et al. 2025, arXiv 2510.27684).

    The student's deterministic chain is cut into phases, each with weights of its own. A rollout stops at a random step
    of a phase (that all ranks share) and jumps from there to the end x_s of the phase; from this anchor the Markov
    kernel q(x_t | x_s) leads to any noisier level, where DMD2's gradient on the step's x0 is taken. Every phase has its
    own critic. A phase ends without clean samples, and x_s in their place would be a biased target; unbiased is

        noise* = sigma_t / sigma_{t|s} noise,   x0* = x_s / alpha_s - alpha_t sigma_s^2 / (alpha_s^2 sigma_{t|s}) noise

    with the noise of the kernel (the paper's flow velocity is noise* - x0*), weighted by ``min(1, cap sigma_{t|s}^2)``,
    which is ``sigma_{t|s}^2 clamp(1 / sigma_{t|s}^2, 0, cap)``. No GAN.

    Phases learn one after the other, from the noisiest: an earlier one is frozen, and the critic of each begins as it
    is given (a copy of the teacher) with fresh optimizers. Or, as in the trainer of ModelTC/LightX2V, they take turns
    from student update to student update, which follow the critic updates of the same phase; that trainer has the plain
    squared error (a large ``weight_cap``) and the extra ``ImplicitAlignment``. The diversity loss of DP-DMD goes with
    both: the extra ``FirstStepAnchor``. Networks that are no ``Experts`` become one copy per phase (an adapter: one per
    phase on the same weights), and so does the critic.

    Args:
        phases: Whether phases learn one after the other (``sequential``, the paper) or take turns (``alternate``).
        phase_updates: Student updates of each phase, one number for all or one per phase; ``trainer.max_steps`` should
            be their sum, and training beyond goes on with the last. The paper trains the last longer.
        sampler: How the student generates: four steps of the process's own grid in two phases.
        renoise_time: Law of the noise levels at which the scores are compared: uniform above the phase's end.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the velocity.
        weight_cap: Bound of the critic's weight.
    """

    sampler: PhasedSampler
    student: Experts
    critic: Experts

    def __init__(
        self,
        phases: Literal["sequential", "alternate"] = "sequential",
        phase_updates: int | Sequence[int] = 1000,
        sampler: PhasedSampler = PhasedSampler(),
        renoise_time: TimeLaw = WithinChain("anchor", 1.0),
        critic_time: TimeLaw = WithinChain("anchor", 1.0),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        weight_cap: float = 10.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, weight_cap=weight_cap)
        checks.whole(self, phase_updates=phase_updates)
        checks.kind(self, PhasedSampler, sampler=sampler)
        updates = [phase_updates] * sampler.phases if isinstance(phase_updates, int) else list(phase_updates)
        if len(updates) != sampler.phases:
            raise UserError(f"PhasedDMD has {sampler.phases} phases, but phase_updates {updates}; give one for each.")
        super().__init__(
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.weight_cap = weight_cap
        self.phases = phases
        self.have_stages(list(accumulate(updates)) if phases == "sequential" else [])

    @property
    def phase(self) -> int:
        """The phase that learns; 0 is the noisiest."""
        return int(self.stage) if self.phases == "sequential" else self.student_updates % self.sampler.phases

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        draws = part.draws.scoped(self.rollout_scope(role))
        told = self.student_condition(condition, draws)
        made = self.sampler.rollout(self.student, draws, told, self.noise_dtype(), phase=self.phase)
        return replace(made, condition=condition)

    def build_role(self, role: str) -> Denoiser:
        network = super().build_role(role)
        caller = network if role == "student" else self.student
        process, boundaries = caller.process, self.sampler.boundaries(caller)
        if not same_process(process, network.process):
            levels = process.ratio(torch.tensor(boundaries, dtype=torch.float64, device="cpu"))
            boundaries = network.process.time_within(levels).tolist()
        if not isinstance(network, Experts):
            return Experts.copies(network, boundaries)
        if not all(map(math.isclose, network.boundaries, boundaries)):
            raise UserError(
                f"The {role}'s experts change at {network.boundaries}, but the sampler's phases at {boundaries}; give "
                "the experts the boundaries of the phases."
            )
        return network

    def critic_of(self, rollout: Rollout) -> Denoiser:
        return self.critic.expert(self.sampler.phase(cast(int, rollout.step)))

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        process, s, t = self.student.process, inputs.rollout.t_anchor, inputs.t
        x0, effective = sub_interval_truth(process, inputs.rollout.anchor, s, t, inputs.noise)
        factor = (self.weight_cap * process.kernel(s, t)[1].square()).clamp(max=1.0)
        return self.critic_objective(prediction, x0, effective, factor)
